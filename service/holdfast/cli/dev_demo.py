"""The demo that `holdfast dev` runs: one order through the shop, told line by line as it happens."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from holdfast.client import Client, HistoryEvent, WorkflowHandle
from holdfast.dev import demo

LOOK_S = 0.1
"""How often the demo looks for news of its order."""

Say = Callable[[str], None]


async def run_demo(client: Client, say: Say) -> WorkflowHandle[Any, Any]:
    """Run one order to its end, approving it when it waits. Tells each step with *say*; the closed workflow."""
    order = demo.Order(id=secrets.token_hex(3), item="hat", cents=1_200)
    handle = await client.start_workflow(
        demo.OrderWorkflow.run, order, id=f"order-{order.id}", task_queue=demo.TASK_QUEUE
    )
    say(f"{handle.id} is started: a {order.item} for {order.cents / 100:.2f}")
    teller = _Teller(say)
    is_approved = False
    while not teller.is_over:
        teller.tell((await handle.fetch_history()).events)
        if teller.is_waiting and not is_approved:
            await handle.signal(demo.OrderWorkflow.approve, "holdfast dev")
            is_approved = True
        elif not teller.is_over:
            await asyncio.sleep(LOOK_S)
    return handle


class _Teller:
    """Turns the events of the demo's workflow into lines, each event once."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.told = 0
        self.names: dict[int, str] = {}
        self.is_waiting = False
        self.is_over = False

    def tell(self, events: Sequence[HistoryEvent]) -> None:
        """Say what is new in *events*, the history so far."""
        for event in events[self.told :]:
            line = self._line(event.event_type, event.attributes)
            if line:
                self.say(line)
        self.told = len(events)

    def _line(self, kind: str, attributes: dict[str, Any]) -> str:
        match kind:
            case "ActivityScheduled":
                self.names[attributes["seq"]] = attributes["name"]
                return ""
            case "ActivityCompleted":
                attempt = attributes.get("attempt", 1)
                again = f"   (attempt {attempt}: the one before failed)" if attempt > 1 else ""
                return f"{self.names[attributes['seq']]:<8} → {attributes.get('result')}{again}"
            case "TimerStarted":
                self.is_waiting = True
                return "waiting for somebody's approval, or for an hour to pass"
            case "SignalReceived":
                return f"signal   ← {attributes['name']} {attributes.get('input')}"
            case "WorkflowCompleted" | "WorkflowFailed" | "WorkflowTerminated" | "WorkflowCancelled":
                self.is_over = True
                return f"{kind.removeprefix('Workflow').lower()}"
            case _:
                return ""
