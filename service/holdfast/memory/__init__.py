"""The engine in memory: the same verbs, rules and clock, on tables that live in this process.

Nothing of the engine is written twice. What it asks of Postgres goes through two doors: the three functions of a
`Journal` (find, lock, write runs), and queries that a pool answers. `Tables` is a journal over dicts of core states,
and `MemoryPool` answers the engine's queries from them, each by a function that says in Python what the statement says
in SQL. So an engine of its own was not needed, and tests compare the two statement by statement. One event loop, no
locks: nothing here ever waits, so a transaction is never seen half done. Time moves when the owner moves it.
"""

from holdfast.memory.engine import MemoryEngine
from holdfast.memory.pool import MemoryPool
from holdfast.memory.tables import Tables

__all__ = ["MemoryEngine", "MemoryPool", "Tables"]
