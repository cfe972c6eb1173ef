"""The bus: everything Holdfast says over NATS goes through here, and nothing else touches nats-py.

`Bus` is what processes hold. `framed_caller` and `framed_responder` put many requests into one message.
"""

from holdfast.bus.bus import Bus
from holdfast.bus.frames import FramedCaller, framed_caller, framed_responder
from holdfast.bus.message import Msg, NoResponders
from holdfast.bus.respond import REQUEST_INTAKE
from holdfast.bus.streams import HeldHint, StreamLimits, decode_hint
from holdfast.bus.subscription import BusStats, Intake, Subscription

__all__ = [
    "REQUEST_INTAKE",
    "Bus",
    "BusStats",
    "FramedCaller",
    "HeldHint",
    "Intake",
    "Msg",
    "NoResponders",
    "StreamLimits",
    "Subscription",
    "decode_hint",
    "framed_caller",
    "framed_responder",
]
