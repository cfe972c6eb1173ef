"""The settings of a service process: `HOLDFAST_*`, read once into a frozen struct.

Only `load` reads the environment, and only values live here: nothing is opened, connected
or logged. Whoever needs a setting gets the struct handed in.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from holdfast.exceptions import Invalid

PREFIX = "HOLDFAST_"

CLIENTS = ("ADDRESS", "NAMESPACE", "OUTPUT", "UTC", "PROFILE", "CONFIG_FILE", "API_KEY", "DATA", "HTTP_URL")
ELSEWHERE = frozenset(PREFIX + name for name in CLIENTS)
"""Variables with our prefix that the client and the command line read; a service process ignores them."""


class Address(msgspec.Struct, frozen=True):
    """Where to listen. Port 0 means any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a service process can be told from outside. Seconds end in `_s`.

    `archive_url` is empty where nothing is archived, and so nothing purged. `retention_s` is how long closed runs are
    kept before that, in namespaces that do not say themselves. `drop_hints` publishes no hint at all, to prove that
    hints change latency only. `unknown` lists variables with our prefix that nobody reads, each with the nearest real
    name or an empty string: likely typing errors, worth a warning and no more.
    """

    postgres_url: str = ""
    nats_url: str = ""
    http: Address = Address("127.0.0.1", 8233)
    ops: Address = Address("127.0.0.1", 0)
    log_level: str = "info"
    log_format: str = "auto"
    pool_max: int = 10
    lease_s: float = 10.0
    sweep_s: float = 1.0
    sweep_away_s: float = 0.25
    drain_s: float = 10.0
    drop_hints: bool = False
    archive_url: str = ""
    retention_s: float = 30 * 86_400.0
    unknown: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={redacted(value) if name in SECRET else value!r}" for name, value in fields)
        return f"Config({', '.join(shown)})"


SECRET = frozenset({"postgres_url", "nats_url", "archive_url"})
"""Fields whose value may hold a password."""


class Fault(Exception):
    """A value cannot be read; the text says what was expected."""


class Setting(msgspec.Struct, frozen=True):
    """One variable: how its text becomes the field's value, and what it must look like."""

    field: str
    parse: Callable[[str], Any]
    expected: str

    @property
    def variable(self) -> str:
        """The environment's name for the field."""
        return PREFIX + self.field.upper()


def load(env: Mapping[str, str] | None = None, *, needs: Collection[str] = ()) -> Config:
    """The settings in *env* (the process environment by default), defaults where it says nothing.

    *needs* names fields that must not stay empty. Raises `Invalid` with every fault at once:
    the variable, the value found (passwords hidden) and what was expected. An empty variable counts as unset.
    """
    env = os.environ if env is None else env
    values: dict[str, Any] = {}
    faults: list[tuple[str, str]] = []
    for setting in SETTINGS:
        text = env.get(setting.variable, "").strip()
        if not text:
            if setting.field in needs:
                faults.append((setting.variable, f"is not set, expected {setting.expected}"))
            continue
        try:
            values[setting.field] = setting.parse(text)
        except Fault:
            shown = redacted(text) if setting.field in SECRET else repr(text)
            faults.append((setting.variable, f"is {shown}, expected {setting.expected}"))
    faults += _contradictions(values)
    if faults:
        raise invalid(faults)
    return Config(**values, unknown=tuple(_unknown(env)))


def invalid(faults: Collection[tuple[str, str]]) -> Invalid:
    """The error that reports *faults* (variable, what is wrong with it) together."""
    lines = "".join(f"\n  {name} {fault}" for name, fault in faults)
    count = "1 setting is" if len(faults) == 1 else f"{len(faults)} settings are"
    return Invalid(f"{count} not usable:{lines}", details=dict(faults))


def redacted(url: str) -> str:
    """*url* as it may be shown: the user and the scheme stay, passwords and tokens become `***`."""
    url = re.sub(r"(://[^:/?#@\s]*):[^/?#\s]*@", r"\1:***@", url)
    # A token in place of the user (nats://TOKEN@host) is a secret as well; a name before a password is not.
    url = re.sub(r"(://)[^:/?#@\s]{16,}@", r"\1***@", url)
    return re.sub(r"(?i)([?&](?:password|pass|token|secret|sslpassword)=)[^&\s]*", r"\1***", url)


def _unknown(env: Mapping[str, str]) -> list[tuple[str, str]]:
    known = {setting.variable for setting in SETTINGS} | ELSEWHERE
    strangers = sorted(name for name in env if name.startswith(PREFIX) and name not in known)
    return [(name, next(iter(difflib.get_close_matches(name, known, n=1)), "")) for name in strangers]


def _contradictions(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of settings that make no sense together, as faults."""
    chosen = Config(**values)
    if chosen.sweep_away_s <= chosen.sweep_s:
        return []
    bound = f"at most {PREFIX}SWEEP_S ({chosen.sweep_s})"
    return [(f"{PREFIX}SWEEP_AWAY_S", f"is {chosen.sweep_away_s}, expected {bound}")]


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        for part in text.split(","):
            try:
                split = urlsplit(part.strip())
                is_fine = split.scheme in schemes and bool(split.hostname or split.query) and split.port != 0
            except ValueError:
                raise Fault from None
            if not is_fine:
                raise Fault
        return text

    return parse


def address(text: str) -> Address:
    """`HOST:PORT`, `[v6]:PORT` or a bare `PORT` (then on 127.0.0.1) as an `Address`; raises `Fault`."""
    match = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]/]+):)?([0-9]{1,5})", text)
    if match is None or int(match[2]) > 65_535:
        raise Fault
    return Address((match[1] or "127.0.0.1").strip("[]"), int(match[2]))


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise Fault
        return int(text)

    return parse


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) or not least <= float(text) <= most:
            raise Fault
        return float(text)

    return parse


def _place(text: str) -> str:
    """A folder or a bucket; `open_archive` looks closer."""
    if not re.fullmatch(r"/.*[^/].*|file:///.*[^/].*|s3://[^/].*", text):
        raise Fault
    return text


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise Fault
    return text == "1"


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise Fault
        return text.lower()

    return parse


_LISTEN = "HOST:PORT or a port, 0 for a free one"

SETTINGS = (
    Setting("postgres_url", _url("postgresql", "postgres"), "postgresql://user:password@host:port/database"),
    Setting("nats_url", _url("nats", "tls", "ws", "wss"), "nats://host:port, several separated by commas"),
    Setting("http", address, _LISTEN),
    Setting("ops", address, _LISTEN),
    Setting("log_level", _one_of("debug", "info", "warning", "error"), "debug, info, warning or error"),
    Setting("log_format", _one_of("auto", "json", "text"), "auto, json or text"),
    Setting("pool_max", _whole(1, 1_000), "a whole number from 1 to 1000"),
    Setting("lease_s", _seconds(0.1, 600), "seconds from 0.1 to 600"),
    Setting("drop_hints", _flag, "1 to publish no hints (for tests of the sweep), or 0"),
    Setting("sweep_s", _seconds(0.01, 60), "seconds from 0.01 to 60"),
    Setting("sweep_away_s", _seconds(0.01, 60), "seconds from 0.01 to 60"),
    Setting("drain_s", _seconds(0, 600), "seconds from 0 to 600"),
    Setting("archive_url", _place, "/folder, file:///folder or s3://bucket/prefix"),
    Setting("retention_s", _seconds(0, 315_360_000), "seconds from 0 to 315360000 (ten years)"),
)
"""Every variable a service process reads, in the order faults are reported."""
