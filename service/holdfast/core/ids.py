"""Identifiers: UUID version 7, made from a time and random bytes that the caller supplies."""

from __future__ import annotations


def uuid7(unix_ms: int, entropy: bytes) -> str:
    """A UUIDv7 in its 36-character form (RFC 9562, section 5.7).

    *unix_ms* is the time in milliseconds, *entropy* at least 10 random bytes. Ids made
    from rising times sort in the order of those times.
    """
    low = int.from_bytes(entropy[:10], "big")
    value = (unix_ms & 0xFFFF_FFFF_FFFF) << 80
    value |= 0x7 << 76 | (low >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | (low & 0x3FFF_FFFF_FFFF_FFFF)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def next_run_id(now: float, entropy: bytes, newest: str | None) -> str:
    """An id for a run that starts at *now*; it sorts behind *newest*, the run before it of the same workflow id."""
    unix_ms = int(now * 1000)
    if newest is not None:
        unix_ms = max(unix_ms, int(newest[:8] + newest[9:13], 16) + 1)
    return uuid7(unix_ms, entropy)
