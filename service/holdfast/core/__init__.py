"""The pure core: what a request changes, given what is. No clock, no I/O, no async, no logging.

`state` holds the rows a decision may look at, `facts` what can happen to them, `decide`
says which facts follow from a request, `evolve` what the rows are after them.
"""
