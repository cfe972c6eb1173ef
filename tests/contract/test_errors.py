"""Whatever goes wrong beneath the store is told in the classes of `holdfast.exceptions`."""

from __future__ import annotations

import pytest

from holdfast.exceptions import HoldfastError, Invalid, Unavailable
from holdfast.store import Store
from holdfast.store.session import Statement

FAULTS: dict[str, tuple[str, type[HoldfastError]]] = {
    "a value that Postgres cannot take": ("SELECT 1 / 0", Invalid),
    "a row that must be unique": (
        "INSERT INTO namespace (name) SELECT 'main' FROM generate_series(1, 1)",
        Unavailable,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_a_transaction_is_a_public_error(store: Store, fault: str) -> None:
    text, expected = FAULTS[fault]

    with pytest.raises(HoldfastError) as caught:
        async with store.writing() as writing:
            await writing.run(Statement(text))

    assert type(caught.value) is expected
