"""The shell around the pure core: transactions, batching, verbs, dispatch and background steps.

`transact` is the only way to change a workflow; `verbs` what clients and workers may ask;
`dispatch` decides who gets a ready task; `background` what the clock asks.
"""
