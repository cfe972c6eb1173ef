"""What asyncpg raises, named without importing it: the engine in memory runs where the driver is not installed."""

from __future__ import annotations

from functools import cache

Errors = tuple[type[BaseException], ...]


@cache
def lost() -> Errors:
    """What a connection of its own ends with, whoever is to blame."""
    import asyncpg

    return (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError)


@cache
def gone() -> Errors:
    """What a dead, dying, silent (TimeoutError is an OSError) or unreachable server looks like."""
    import asyncpg

    return (
        OSError,
        asyncpg.InterfaceError,
        # When the server goes away in the middle of a protocol exchange.
        asyncpg.InternalClientError,
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
        asyncpg.InsufficientResourcesError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.CannotConnectNowError,
        # What a process hears that was frozen inside a transaction, and one whose server became a replica.
        asyncpg.IdleInTransactionSessionTimeoutError,
        asyncpg.ReadOnlySQLTransactionError,
        # A database that is being restored, and one whose disk does not read or write.
        asyncpg.InvalidCatalogNameError,
        asyncpg.PostgresSystemError,
    )


@cache
def again() -> Errors:
    """What a transaction ends with that lost against another one, and would not a second time."""
    import asyncpg

    return (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)
