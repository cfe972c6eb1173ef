"""The demo shop, for `holdfast worker examples.demo`. Its code ships with Holdfast, in `holdfast.dev.demo`."""

from holdfast.dev.demo import TASK_QUEUE, OrderWorkflow, charge, refund, reserve, ship

__all__ = ["TASK_QUEUE", "OrderWorkflow", "charge", "refund", "reserve", "ship"]
