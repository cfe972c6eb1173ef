"""What runs under a payload codec. A module of its own: histories of it do not replay without the codec."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from holdfast import activity, workflow
from holdfast.common import RetryPolicy
from holdfast.exceptions import ActivityError, ApplicationError

SECRET = "attack at dawn"
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=2)
LIMIT = timedelta(seconds=20)


@activity.defn(start_to_close_timeout=LIMIT, retry_policy=SOON, heartbeat_timeout=LIMIT)
async def fragile(word: str) -> list[Any]:
    """Its first attempt tells how far it came, and fails."""
    assert word == SECRET
    if activity.info().attempt == 1:
        activity.heartbeat({"so far": SECRET})
        raise ApplicationError(f"cannot: {SECRET}", SECRET)
    return [word, *activity.info().heartbeat_details]


@activity.defn(start_to_close_timeout=LIMIT, retry_policy=RetryPolicy(maximum_attempts=1))
def hopeless(word: str) -> None:
    """It fails for good, with a cause."""
    try:
        raise KeyError(word)
    except KeyError as error:
        raise ApplicationError(f"hopeless: {word}", {"word": word}, type="Hopeless") from error


def coined() -> str:
    return f"coined: {SECRET}"


def refuse() -> str:
    raise ApplicationError(f"refused: {SECRET}", SECRET)


@workflow.defn
class Everything:
    """Each way that a value takes."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @workflow.signal
    def tell(self, what: str) -> None:
        """Hear it."""
        self.heard.append(what)

    @workflow.run
    async def run(self, word: str, more: bytes) -> dict[str, Any]:
        """What came of it all."""
        found: dict[str, Any] = {"input": [word, more.decode()], "activity": await fragile(word)}
        found["step"] = await workflow.step(coined)
        try:
            await workflow.step(refuse)
        except ApplicationError as error:
            found["step failed"] = [error.message, *error.details]
        try:
            await hopeless(word)
        except ActivityError as error:
            assert isinstance(error.cause, ApplicationError)
            found["failed"] = [error.cause.message, *error.cause.details]
            found["because"] = str(error.cause.__cause__)
        await asyncio.sleep(0.01)
        await workflow.wait_condition(lambda: bool(self.heard))
        found["signal"] = self.heard
        return found


@workflow.defn
async def failing(word: str) -> None:
    """It ends with a failure."""
    await hopeless(word)


@workflow.defn
async def waiting(word: str) -> None:
    """It ends when it is told to."""
    await asyncio.Event().wait()
