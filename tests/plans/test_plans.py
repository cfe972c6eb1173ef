"""With a million rows of everything, statements go along the index that is meant for them and look at what they give.

Whenever the plan was made: on the first day, when there was nothing, or later, by somebody who knows the tables.
"""

from __future__ import annotations

import pytest

from tests.plans.cases import CASES, CLAIMS
from tests.plans.conftest import Looks
from tests.plans.looking import Look

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("plans")]


def each(looks: Looks, name: str) -> list[tuple[str, Look]]:
    """What the statement did in each state of the store. None of them failed."""
    found = {"few": looks.few[name], "many": looks.many[name], "many, with statistics": looks.known[name]}
    assert [f"{state}: {seen}" for state, seen in found.items() if isinstance(seen, str)] == []
    return [(state, seen) for state, seen in found.items() if isinstance(seen, Look)]


@pytest.mark.parametrize("name", CASES)
async def test_a_statement_looks_at_what_it_gives_however_much_there_is(looks: Looks, name: str) -> None:
    case = CASES[name]

    for state, seen in each(looks, name):
        assert seen.scanned <= {"namespace", "leader", "tally"}, f"{state}: these are few, others are not"
        assert case.index in seen.indexes, f"{state}: {seen}"
        assert seen.rows == case.rows, f"{state}: {seen}"
        assert seen.touched <= 20 + 10 * case.rows + case.work, f"{state}: {seen}"
        assert seen.pages <= 60 + 60 * case.rows + 20 * case.work, f"{state}: {seen}"


@pytest.mark.parametrize("name", CASES)
async def test_a_statement_costs_the_same_with_a_thousand_rows_and_with_a_million(
    looks: Looks, name: str
) -> None:
    (_, few), *many = each(looks, name)
    case = CASES[name]

    for state, seen in many:
        assert seen.touched <= 2 * few.touched + case.work, f"{state}: {seen} rather than {few}"
        assert seen.pages <= 2 * few.pages + 10, f"{state}: {seen} rather than {few}"


@pytest.mark.parametrize("name", CLAIMS)
async def test_a_claim_costs_at_most_twice_what_it_costs_with_a_thousand_tasks(
    looks: Looks, name: str
) -> None:
    (_, few), *many = each(looks, f"claim: {name}")

    for state, seen in many:
        assert (seen.rows, seen.touched) == (few.rows, few.touched), f"{state}: {seen} rather than {few}"
        assert seen.pages <= 2 * few.pages, f"{state}: {seen} rather than {few}"
