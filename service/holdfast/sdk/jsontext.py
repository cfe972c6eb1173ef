"""Python values to JSON text and back, typed by hints. Pure.

`msgspec` does nearly all of it. This module adds what it leaves out: subclasses of plain
types, iterables, model objects, odd dictionary keys, unions that it cannot tell apart,
and errors that say what is wrong with which value.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from holdfast.exceptions import Invalid

Decode = Callable[[bytes], Any]


def encode_json(value: Any) -> bytes:
    """JSON text of *value*. Raises `Invalid` if it has none.

    A value with NaN or an infinity in it has none either; see `encode_extended`.
    """
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        return _encode_oddity(value, error)
    # msgspec writes NaN and the infinities as null: a silent change of the value.
    if b"null" in text and value is not None and has_nonfinite(value):
        raise Invalid(
            f"a value of type {type_name(type(value))} holds NaN or an infinity, which JSON has not"
        )
    return text


def encode_extended(value: Any) -> bytes:
    """JSON text in which NaN, Infinity and -Infinity stand for themselves."""
    return json.dumps(msgspec.to_builtins(value, enc_hook=_to_plain), separators=(",", ":")).encode()


def decode_extended(text: bytes, hint: Any = None) -> Any:
    """The value of `encode_extended`'s text, typed by the hint."""
    return value_to_type(hint, json.loads(text))


def has_nonfinite(value: Any) -> bool:
    """Whether NaN or an infinity is anywhere in *value*. False for what cannot be encoded at all."""
    try:
        return _any_nonfinite(msgspec.to_builtins(value, enc_hook=_to_plain))
    except (TypeError, ValueError, RecursionError):
        return False


def decoder_for(hint: Any) -> Decode:
    """The function that decodes JSON text to *hint*; made once per hint.

    It raises `msgspec.ValidationError`, `msgspec.DecodeError`, TypeError or ValueError.
    """
    try:
        found = _decoders.get(hint)
    except TypeError:  # an unhashable hint, such as Annotated[int, [1]]
        return _make_decoder(hint)
    if found is None:
        found = _decoders[hint] = _make_decoder(hint)
    return found


def value_to_type(hint: Any, value: Any) -> Any:
    """*value*, made of dicts, lists and scalars, as an instance of *hint*. Raises TypeError or ValueError.

    For hints that msgspec refuses to compile: it tries the members of a union in order.
    """
    if hint in _UNTYPED:
        return value
    origin = typing.get_origin(hint) or hint
    args = typing.get_args(hint)
    if origin is typing.Annotated:
        return value_to_type(args[0], value)
    if origin is typing.Union or origin is types.UnionType:
        return _first_that_fits(args, hint, value)
    if isinstance(hint, typing.NewType):
        return value_to_type(hint.__supertype__, value)
    if isinstance(origin, type):
        if dataclasses.is_dataclass(origin):
            return _to_dataclass(origin, value)
        if args and issubclass(origin, collections.abc.Mapping) and isinstance(value, dict):
            pairs = ((_key(args[0], k), value_to_type(args[1], v)) for k, v in value.items())
            return _build(origin, dict(pairs))
        if args and issubclass(origin, collections.abc.Iterable) and isinstance(value, list | tuple | set):
            return _to_sequence(origin, args, value)
    return msgspec.convert(value, hint, dec_hook=_from_plain)


def type_name(hint: Any) -> str:
    """How a type is called in messages."""
    return getattr(hint, "__qualname__", None) or str(hint)


def _to_plain(value: Any) -> Any:
    if isinstance(value, list | tuple | set | frozenset | dict):
        # Such a value comes here only as a key.
        raise TypeError(f"a key of type {type_name(type(value))} has no JSON form")
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain.__str__(value) if plain is str else plain(value)
    for method in ("model_dump", "dict"):
        dump = getattr(value, method, None)
        if callable(dump) and not isinstance(value, type):
            return dump(mode="json") if method == "model_dump" else dump()
    if isinstance(value, collections.abc.Mapping):
        return dict(value)
    if isinstance(value, collections.abc.Iterable):
        return list(value)
    raise TypeError(
        f"a value of type {type_name(type(value))} has no JSON form: "
        "use plain types, a dataclass or a msgspec Struct, or give the client a data converter that knows it"
    )


def _from_plain(hint: Any, value: Any) -> Any:
    validate = getattr(hint, "model_validate", None)
    if callable(validate):
        return validate(value)
    origin = typing.get_origin(hint) or hint
    if isinstance(value, origin):
        return value
    buildable = (str, int, float, collections.abc.Mapping, collections.deque)
    if isinstance(origin, type) and issubclass(origin, buildable):
        args = typing.get_args(hint)
        return (
            _to_sequence(origin, args, value) if args and isinstance(value, list) else _build(origin, value)
        )
    raise TypeError(f"cannot make {type_name(hint)} of a JSON {type_name(type(value))}")


def _encode_oddity(value: Any, error: Exception) -> bytes:
    if isinstance(error, UnicodeEncodeError):
        raise Invalid(
            f"a string in a value of type {type_name(type(value))} has a lone surrogate at character "
            f"{error.start}: that is not Unicode text; repair it or send bytes"
        ) from error
    if isinstance(error, RecursionError):
        raise Invalid(
            f"a value of type {type_name(type(value))} is nested too deep, or contains itself"
        ) from error
    try:
        # The standard library also takes True, False and None as keys.
        return json.dumps(
            msgspec.to_builtins(value, enc_hook=_to_plain), separators=(",", ":"), allow_nan=False
        ).encode()
    except (TypeError, ValueError, RecursionError):
        raise Invalid(f"cannot encode a value of type {type_name(type(value))}: {error}") from error


def _any_nonfinite(plain: Any) -> bool:
    if isinstance(plain, float):
        return not math.isfinite(plain)
    if isinstance(plain, dict):
        return any(_any_nonfinite(v) for v in plain.values())
    if isinstance(plain, list | tuple | set | frozenset):
        return any(_any_nonfinite(v) for v in plain)
    return False


def _make_decoder(hint: Any) -> Decode:
    if hint in _UNTYPED:
        return _decode_untyped
    try:
        return msgspec.json.Decoder(hint, dec_hook=_from_plain).decode
    except TypeError:
        return lambda text: value_to_type(hint, _decode_untyped(text))


def _first_that_fits(members: tuple[Any, ...], hint: Any, value: Any) -> Any:
    reasons = []
    for member in members:
        try:
            return value_to_type(member, value)
        except (TypeError, ValueError) as error:  # msgspec.ValidationError is a ValueError
            reasons.append(f"{type_name(member)}: {error}")
    raise TypeError(f"fits no member of {hint} ({'; '.join(reasons)})")


def _to_dataclass(cls: type, value: Any) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object for {type_name(cls)}, got {type_name(type(value))}")
    hints = typing.get_type_hints(cls)
    given: dict[str, Any] = {}
    later: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.name in value:
            target = given if field.init else later
            target[field.name] = value_to_type(hints[field.name], value[field.name])
    made = cls(**given)
    for name, field_value in later.items():
        object.__setattr__(made, name, field_value)
    return made


def _to_sequence(origin: type, args: tuple[Any, ...], value: typing.Iterable[Any]) -> Any:
    items = list(value)
    if origin is not tuple or args[-1] is Ellipsis:
        return _build(origin, [value_to_type(args[0], item) for item in items])
    if len(args) != len(items):
        raise TypeError(f"expected {len(args)} elements, got {len(items)}")
    return tuple(value_to_type(hint, item) for hint, item in zip(args, items, strict=True))


def _key(hint: Any, key: str) -> Any:
    return msgspec.convert(key, hint, strict=False, dec_hook=_from_plain)


def _build(origin: type, value: Any) -> Any:
    # Abstract collections (Sequence, Mapping, ...) are satisfied by list and dict themselves.
    return value if isinstance(value, origin) else origin(value)


_UNTYPED = (Any, object, None)
_encode = msgspec.json.Encoder(enc_hook=_to_plain).encode
_decode_untyped: Decode = msgspec.json.Decoder().decode
_decoders: dict[Any, Decode] = {}
