"""A change of the store contract that a client asked for under a request id: it happens once, however often it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from holdfast.exceptions import HoldfastError, Refused
from holdfast.store.contract.opening import Opened, Writing
from holdfast.store.session import Pool, Query, Statement


class KeptHash(msgspec.Struct, kw_only=True):
    """What stands for the body of a request that was carried out."""

    hash: bytes


# A twin that is under way is waited for. No run is what this is about: the id of none stands in its place.
KEEP_REQUEST = Query(
    """
    INSERT INTO request AS r (namespace, request_id, hash, run_id)
    VALUES ($1, $2, $3, '00000000-0000-0000-0000-000000000000')
    ON CONFLICT (namespace, request_id) DO NOTHING
    RETURNING r.hash
    """,
    KeptHash,
)

READ_REQUEST = Query(
    "SELECT r.hash FROM request AS r WHERE r.namespace = $1 AND r.request_id = $2",
    KeptHash,
)

DROP_REQUEST = Statement("DELETE FROM request AS r WHERE r.namespace = $1 AND r.request_id = $2")


class Repeated(HoldfastError):
    """The same request was carried out before; nothing changed now."""

    code = "refused"


class Asked(Opened):
    """The store for one request of a client.

    Its one transaction keeps the request id if anything happens. It raises `Repeated` if the request was carried out
    before, `Refused` if that one had another body.
    """

    def __init__(self, pool: Pool, namespace: str, request_id: str, hash_: bytes) -> None:
        super().__init__(pool)
        self._namespace = namespace
        self._request_id = request_id
        self._hash = hash_

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Writing]:
        """As any store's, with the request."""
        async with super().writing() as writing:
            await self._keep(writing)
            yield writing
            if not writing.has_told:
                await writing.run(DROP_REQUEST, self._namespace, self._request_id)

    async def _keep(self, writing: Writing) -> None:
        if await writing.one(KEEP_REQUEST, self._namespace, self._request_id, self._hash) is not None:
            return
        before = await writing.one(READ_REQUEST, self._namespace, self._request_id)
        if before is not None and before.hash != self._hash:
            raise Refused(
                f"request {self._request_id!r} was already carried out with another body: use a new request id "
                "for a new request"
            )
        raise Repeated(f"request {self._request_id!r} was already carried out")
