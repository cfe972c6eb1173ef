"""The only SQL. Each statement is a constant above the function that runs it.

`journal` locks runs and records what was decided; `tasks` claims and finds what is due;
`views` reads; `outbox` feeds the change feed; `migrate` brings the schema up to date.
"""
