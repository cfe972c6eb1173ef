"""Who leads: one at a time, and another as soon as the one is gone, or too late with asking again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from holdfast.exceptions import Unavailable
from holdfast.store.leading import Candidate
from holdfast.store.session import Counts
from tests.store.rows import Sql

LONG_S = 60.0
SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'holdfast leads' AND datname = current_database()
"""
NO_SESSION = f"SELECT ({SESSIONS}) = 0"
CUT = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE application_name = 'holdfast leads' AND datname = current_database()
"""
TIME_IS_UP = "UPDATE leader SET until = clock_timestamp() - interval '1 ms'"

Candidates = Callable[[str], Candidate]


@pytest.fixture
async def candidate(database: str) -> AsyncIterator[Candidates]:
    """Makes candidates for one role, by name."""
    made: list[Candidate] = []

    def make(holder: str) -> Candidate:
        made.append(Candidate(database, "fires", holder, Counts()))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def test_one_leads_and_keeps_its_epoch(candidate: Candidates) -> None:
    one, other = candidate("one"), candidate("other")

    assert [await one.ask(LONG_S), await other.ask(LONG_S), await one.ask(LONG_S)] == [1, None, 1]


async def test_of_many_that_ask_at_once_one_leads(candidate: Candidates) -> None:
    epochs = await asyncio.gather(*(candidate(f"p{n}").ask(LONG_S) for n in range(8)))

    assert [epoch for epoch in epochs if epoch is not None] == [1]


async def test_when_the_leader_goes_the_next_who_asks_leads(candidate: Candidates) -> None:
    one, other = candidate("one"), candidate("other")
    await one.ask(LONG_S)

    await one.close()

    assert await other.ask(LONG_S) == 2
    assert await one.ask(LONG_S) is None


async def test_when_the_leaders_connection_is_cut_the_next_who_asks_leads(
    candidate: Candidates, sql: Sql
) -> None:
    """As when its process is killed; its time is not up for long."""
    one, other = candidate("one"), candidate("other")
    await one.ask(LONG_S)

    assert await sql(CUT) == [True]

    assert await other.ask(LONG_S) == 2
    assert await one.ask(LONG_S) is None


async def test_a_leader_that_asks_too_late_has_lost_it(candidate: Candidates, sql: Sql) -> None:
    """As when it is frozen: its connection is there."""
    one, other = candidate("one"), candidate("other")
    await one.ask(LONG_S)

    await sql(TIME_IS_UP)

    assert await other.ask(LONG_S) == 2
    assert await one.ask(LONG_S) is None


async def test_a_leader_whose_time_is_up_and_whom_nobody_followed_goes_on(
    candidate: Candidates, sql: Sql
) -> None:
    one = candidate("one")
    await one.ask(LONG_S)

    await sql(TIME_IS_UP)

    assert await one.ask(LONG_S) == 1


async def test_who_was_cut_off_asks_on_a_new_connection(candidate: Candidates, sql: Sql) -> None:
    one = candidate("one")
    await one.ask(LONG_S)
    await sql(CUT)

    epoch = None
    while epoch is None:
        try:
            epoch = await one.ask(LONG_S)
        except Unavailable:
            # It learnt of the cut by asking.
            continue

    assert epoch == 1
    assert await sql(SESSIONS) == [1]


async def test_who_shows_no_life_leads_nothing(candidate: Candidates, sql: Sql) -> None:
    """Another session of the same name is there still: others would take the lead from this one."""
    one, again = candidate("one"), candidate("one")
    await one.ask(LONG_S)

    assert await again.ask(LONG_S) is None

    await one.close()
    assert await again.ask(LONG_S) == 1


async def test_a_database_that_does_not_answer_is_unavailable() -> None:
    nowhere = Candidate("postgresql://nobody@127.0.0.1:1/none", "fires", "one", Counts())

    with pytest.raises(Unavailable, match="does not answer"):
        await nowhere.ask(LONG_S)


@pytest.mark.parametrize("turns", [1, 3, 10, 30, 100])
async def test_an_ask_that_is_cancelled_leaves_no_connection(
    candidate: Candidates, sql: Sql, turns: int
) -> None:
    asking = asyncio.create_task(candidate("one").ask(LONG_S))
    for _ in range(turns):
        await asyncio.sleep(0)

    asking.cancel()
    await asyncio.wait((asking,))

    if asking.cancelled():
        await sql.until(NO_SESSION)
