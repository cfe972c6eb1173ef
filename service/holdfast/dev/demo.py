"""A small shop: the workflow that `holdfast dev` runs, and a good first one to read.

An order is reserved, charged, held until somebody approves it (or nobody does in time), and
shipped. Try to kill any process while it runs: the order goes on where it was.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from holdfast import activity, workflow
from holdfast.common import RetryPolicy
from holdfast.exceptions import ApplicationError

TASK_QUEUE = "demo"


@dataclass
class Order:
    """What the buyer wants."""

    id: str
    item: str
    cents: int
    approval_s: float = 3600.0
    """How long somebody has to approve it."""


@dataclass
class Receipt:
    """What became of an order."""

    order_id: str
    payment: str
    approved_by: str
    parcel: str


# Activities are plain functions that touch the world. They may run more than once, so each
# names its effect by the order's id: the shop, the bank and the post do it once per name.


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def reserve(order: Order) -> str:
    """Put the item aside; the reservation's number."""
    return f"reservation-{order.id}"


@activity.defn(
    start_to_close_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=5),
)
async def charge(order: Order) -> str:
    """Take the money; the payment's number. The first attempt fails, as payment providers do."""
    if activity.info().attempt == 1:
        raise ApplicationError("the payment provider did not answer", type="ProviderDown")
    return f"payment-{order.id}"


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def ship(order: Order, reservation: str) -> str:
    """Hand the reserved item to the post; the parcel's number."""
    return f"parcel-{order.id} ({order.item}, {reservation})"


@activity.defn(start_to_close_timeout=timedelta(seconds=10))
async def refund(payment: str) -> None:
    """Give the money of *payment* back."""


@workflow.defn(name="order")
class OrderWorkflow:
    """Durable from the first line to the last: every `await` may last weeks and survive restarts."""

    def __init__(self) -> None:
        self.approved_by = ""

    @workflow.signal
    def approve(self, by: str) -> None:
        """Somebody looked at the order and lets it go."""
        self.approved_by = by

    @workflow.run
    async def run(self, order: Order) -> Receipt:
        """The order's whole life."""
        reservation = await reserve(order)
        payment = await charge(order)
        try:
            async with asyncio.timeout(order.approval_s):
                await workflow.wait_condition(lambda: self.approved_by != "")
        except TimeoutError:
            await refund(payment)
            raise ApplicationError(f"nobody approved order {order.id} in time", type="NotApproved") from None
        parcel = await ship(order, reservation)
        return Receipt(order.id, payment, self.approved_by, parcel)
