"""How tasks come to a worker: pushed to it, or claimed after a hint.

An idle worker asks nothing: it claims when it starts, when its connection returns and when a hint says that
there is work. A full one stops listening to hints and passes on one that it got all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from holdfast.bus import Msg, Subscription
from holdfast.exceptions import HoldfastError, Unavailable
from holdfast.sdk.sealing import unsealed
from holdfast.sdk.worker_leases import Leases
from holdfast.sdk.worker_settings import Crew, WorkerSettings, log
from holdfast.wire import codec, subjects
from holdfast.wire import messages as m
from holdfast.wire.subjects import TaskKind

QUEUE_GROUP = "workers"
REFUSED_DELAY_S = 5.0


class Intake:
    """The door of a worker. `accept` gets the tasks, `cancel` the leases of activities that should stop."""

    def __init__(
        self,
        settings: WorkerSettings,
        leases: Leases,
        crew: Crew,
        accept: Callable[[list[m.WorkflowTask], list[m.ActivityTask]], None],
        cancel: Callable[[m.Lease], None],
    ) -> None:
        self._settings = settings
        self._leases = leases
        self._crew = crew
        self._accept = accept
        self._cancel = cancel
        self._bus = settings.rpc.bus
        self._own: Subscription | None = None
        self._hints: dict[TaskKind, Subscription] = {}
        # The kinds that may have ready tasks which nobody here has asked for yet.
        self._wanted: set[TaskKind] = set()
        self._is_claiming = False
        self._is_stopped = False
        self._complaint = ""

    def start(self) -> None:
        """Listen, and look for work that is there already."""
        subject = subjects.worker(self._settings.namespace, self._settings.worker)
        self._own = self._bus.subscribe(subject, self._on_push)
        self._bus.on_up.append(self._look_for_all)
        self._look_for_all()

    def stop(self) -> None:
        """Take no further tasks. Cancellations are still heard, until `close`."""
        self._is_stopped = True
        if self._look_for_all in self._bus.on_up:
            self._bus.on_up.remove(self._look_for_all)
        for kind in list(self._hints):
            self._crew.spawn(self._deafen(kind))

    async def close(self) -> None:
        """Hear nothing more."""
        if self._own is not None:
            await self._own.unsubscribe()

    def on_free(self) -> None:
        """A slot has become free."""
        if self._wanted:
            self._go()

    def _look_for_all(self) -> None:
        workflow_slots, activity_slots = self._settings.slots
        if workflow_slots:
            self._wanted.add("workflow")
        if activity_slots:
            self._wanted.add("activity")
        self._go()

    def _go(self) -> None:
        """Claim what is wanted, if there is room for any of it."""
        if not self._is_claiming and not self._is_stopped and self._claimable():
            self._is_claiming = True
            self._crew.spawn(self._claim_all())

    def _claimable(self) -> set[TaskKind]:
        return {kind for kind in self._wanted if self._room(kind)}

    def _room(self, kind: TaskKind) -> int:
        return self._leases.workflow_slots if kind == "workflow" else self._leases.activity_slots

    def _listen(self, kinds: set[TaskKind]) -> None:
        settings = self._settings
        for kind in kinds:
            if kind not in self._hints:
                subject = subjects.hint(settings.namespace, kind, settings.task_queue)
                self._hints[kind] = self._bus.subscribe(
                    subject, lambda msg, kind=kind: self._on_hint(kind, msg), QUEUE_GROUP
                )

    async def _deafen(self, kind: TaskKind) -> None:
        subscription = self._hints.pop(kind, None)
        if subscription is not None:
            await subscription.unsubscribe()

    async def _pass_on(self, kind: TaskKind, msg: Msg) -> None:
        # In this order, or the hint would come back to us.
        await self._deafen(kind)
        self._bus.publish(msg.subject, msg.data)

    def _on_hint(self, kind: TaskKind, msg: Msg) -> None:
        self._wanted.add(kind)
        if self._room(kind) and not self._is_stopped:
            self._go()
        else:
            self._crew.spawn(self._pass_on(kind, msg))

    def _on_push(self, msg: Msg) -> None:
        if msg.reply:
            self._bus.publish(msg.reply, b"")
        try:
            push: m.Push = codec.decode(msg.data, m.Push)
        except HoldfastError as error:
            # Of another version, or forged: the tasks, if there were any, come back when their leases end.
            log.warning("a message to this worker could not be read: %s", error)
            return
        for lease in push.cancelled:
            self._cancel(lease)
        if push.workflow_tasks or push.activity_tasks:
            if self._settings.converter.payload_codec is None:
                self._accept(push.workflow_tasks, push.activity_tasks)
            else:
                self._crew.spawn(self._unseal(push))
        if push.is_look:
            self._look_for_all()

    async def _unseal(self, push: m.Push) -> None:
        opened: m.Push = await unsealed(self._settings.converter, push)
        self._accept(opened.workflow_tasks, opened.activity_tasks)

    async def _claim_all(self) -> None:
        attempt = 0
        try:
            while (kinds := self._claimable()) and not self._is_stopped:
                self._listen(kinds)
                self._wanted -= kinds
                try:
                    tasks: m.Tasks = await self._settings.rpc.once("claim", self._claim())
                except HoldfastError as error:
                    attempt += 1
                    self._wanted |= kinds
                    await self._pause_after(error, attempt)
                    continue
                attempt, self._complaint = 0, ""
                if tasks.is_more:
                    self._wanted |= kinds
                self._accept(tasks.workflow_tasks, tasks.activity_tasks)
        finally:
            self._is_claiming = False

    def _claim(self) -> m.Claim:
        return m.Claim(
            worker=self._settings.worker,
            task_queue=self._settings.task_queue,
            workflow_slots=self._leases.workflow_slots,
            activity_slots=self._leases.activity_slots,
            build_id=self._settings.build_id,
        )

    async def _pause_after(self, error: HoldfastError, attempt: int) -> None:
        if isinstance(error, Unavailable):
            await self._settings.rpc.pause(attempt)
            return
        if error.message != self._complaint:
            self._complaint = error.message
            log.error(
                "cannot claim tasks of queue %s: %s; trying again", self._settings.task_queue, error.message
            )
        await asyncio.sleep(REFUSED_DELAY_S)
