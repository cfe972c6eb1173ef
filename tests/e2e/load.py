"""What the test's own clients do and see: every call goes into a ledger with one of three outcomes."""

from __future__ import annotations

import itertools
from typing import Any
from uuid import uuid4

from holdfast import Client
from holdfast.converter import DataConverter
from holdfast.exceptions import HoldfastError, Unavailable
from holdfast.wire import events as e
from holdfast.wire import messages as m
from tests.e2e import programs
from tests.invariants.vocabulary import Op

CALL_S = 30.0
CONVERTER = DataConverter.default


class Load:
    """Calls through the SDK's own path (repeated until there is a definite answer), with request ids of the test."""

    def __init__(self, client: Client) -> None:
        self._rpc = client.caller.rpc
        self._numbers = itertools.count()
        self.log: list[Op] = []
        self.acknowledged: dict[str, str] = {}
        """The run id of each workflow id whose start was answered."""
        self.unanswered: list[str] = []
        """Why calls have an unknown outcome."""

    async def start(
        self,
        workflow_type: str,
        workflow_id: str,
        *args: Any,
        task_queue: str = programs.TASK_QUEUE,
        timeout_s: float = CALL_S,
    ) -> str | None:
        """The run id; None if the outcome is unknown. Raises what is definite and not a success."""
        request = m.Start(
            request_id=uuid4().hex,
            workflow_id=workflow_id,
            workflow_type=workflow_type,
            task_queue=task_queue,
            input=CONVERTER.encode_args(args),
        )
        started = await self._call("start", request, "", timeout_s)
        if started is None:
            return None
        self.acknowledged[workflow_id] = started.run_id
        return str(started.run_id)

    async def signal(
        self, workflow_id: str, name: str, *args: Any, timeout_s: float = CALL_S, client: int = 0
    ) -> str | None:
        """The run that has the signal; None if the outcome is unknown."""
        request = m.Signal(
            request_id=uuid4().hex, workflow_id=workflow_id, name=name, input=CONVERTER.encode_args(args)
        )
        run_id = self.acknowledged.get(workflow_id, "")
        done = await self._call("signal", request, run_id, timeout_s, client)
        return None if done is None else str(done.run_id)

    async def result(self, workflow_id: str, timeout_s: float | None = None) -> Any:
        """What the workflow returned; how it ended otherwise is raised as an assertion."""
        request = m.Result(workflow_id=workflow_id, run_id=self.acknowledged.get(workflow_id), wait_s=5.0)
        found = await self._rpc.poll("result", request, lambda outcome: outcome.event is not None, timeout_s)
        event = found.event.event
        assert isinstance(event, e.WorkflowCompleted), f"{workflow_id} ended with {event}"
        return CONVERTER.decode_value(event.result)

    async def _call(self, verb: str, request: Any, run_id: str, timeout_s: float, client: int = 0) -> Any:
        number = next(self._numbers)
        outcome = "unknown"
        try:
            answer = await self._rpc.call(verb, request, timeout_s)
            outcome, run_id = "ok", answer.run_id
            return answer
        except Unavailable as error:
            self.unanswered.append(error.message)
            return None
        except HoldfastError:
            outcome = "refused"
            raise
        finally:
            self.log.append(
                Op(
                    op=verb,
                    run_id=run_id,
                    key=request.request_id,
                    outcome=outcome,
                    client=client,
                    client_seq=number,
                )
            )
