"""The logger of workflow code: says which run speaks, and says everything once.

Replaying a turn repeats what it logged, so nothing is logged while replaying.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

from holdfast.sdk.context import current_run


class LoggerAdapter(logging.LoggerAdapter[logging.Logger]):
    """Adds what is known about the running workflow to each record.

    `workflow_info_on_message` appends it to the text, `workflow_info_on_extra` sets the
    record's `holdfast_workflow`. `log_during_replay` makes replays audible.
    """

    def __init__(self, logger: logging.Logger, extra: Mapping[str, Any] | None) -> None:
        super().__init__(logger, extra or {})
        self.workflow_info_on_message = True
        self.workflow_info_on_extra = True
        self.log_during_replay = False

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Called by `logging` for each record."""
        run = current_run()
        if run is None:
            return msg, kwargs
        about = {
            "attempt": run.identity.attempt,
            "namespace": run.identity.namespace,
            "run_id": run.identity.run_id,
            "task_queue": run.identity.task_queue,
            "workflow_id": run.identity.workflow_id,
            "workflow_type": run.identity.workflow_type,
        }
        if self.workflow_info_on_message:
            msg = f"{msg} ({about})"
        if self.workflow_info_on_extra:
            kwargs["extra"] = {"holdfast_workflow": about, **(kwargs.get("extra") or {})}
        return msg, kwargs

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 (the name in logging)
        """Whether a record of this level would be written."""
        run = current_run()
        if run is not None and run.is_replaying and not self.log_during_replay:
            return False
        return super().isEnabledFor(level)

    @property
    def base_logger(self) -> logging.Logger:
        """The logger underneath, for handlers and formatters."""
        return self.logger


logger = LoggerAdapter(logging.getLogger("holdfast.workflow"), None)
