"""Between Python values and payloads, and between exceptions and recorded failures.

`DataConverter` is what clients and workers are given. With the default payload converter
values go straight to JSON text and back; with another one they take the way of
`to_payloads` and `from_payloads`. A `PayloadCodec` (encryption, compression) is applied
outside of that, where awaiting is allowed: by `seal` and `unseal`; `sdk.sealing` says to what.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, ClassVar, TypeVar, overload

import msgspec

from holdfast.common import RawValue
from holdfast.exceptions import FailureError, Invalid
from holdfast.sdk import failures, jsontext
from holdfast.wire import payloads as wire_payloads
from holdfast.wire.failures import Failure
from holdfast.wire.messages import PAYLOAD_BYTES_MAX
from holdfast.wire.payloads import JSON_PLAIN, Payload

__all__ = [
    "BinaryNullPayloadConverter",
    "BinaryPlainPayloadConverter",
    "CompositePayloadConverter",
    "DataConverter",
    "DefaultFailureConverter",
    "DefaultFailureConverterWithEncodedAttributes",
    "DefaultPayloadConverter",
    "EncodingPayloadConverter",
    "FailureConverter",
    "JSONNonFinitePayloadConverter",
    "JSONPlainPayloadConverter",
    "Payload",
    "PayloadCodec",
    "PayloadConverter",
    "default",
    "value_to_type",
]

T = TypeVar("T")
value_to_type = jsontext.value_to_type


class PayloadConverter(ABC):
    """Converts lists of values to lists of payloads and back."""

    default: ClassVar[PayloadConverter]

    @abstractmethod
    def to_payloads(self, values: Sequence[Any]) -> list[Payload]:
        """One payload per value; a `RawValue` gives its own payload."""

    @abstractmethod
    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """One value per payload, typed by the hints as far as they reach."""

    def to_payload(self, value: Any) -> Payload:
        """The payload of a single value."""
        return self.to_payloads([value])[0]

    @overload
    def from_payload(self, payload: Payload) -> Any: ...

    @overload
    def from_payload(self, payload: Payload, type_hint: type[T]) -> T: ...

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        """The value of a single payload."""
        return self.from_payloads([payload], [type_hint] if type_hint else None)[0]


class EncodingPayloadConverter(ABC):
    """Converts single values in one encoding, for a `CompositePayloadConverter`."""

    @property
    @abstractmethod
    def encoding(self) -> str:
        """What `metadata["encoding"]` says in the payloads of this converter."""

    @abstractmethod
    def to_payload(self, value: Any) -> Payload | None:
        """The payload of *value*, or None to leave it to the next converter."""

    @abstractmethod
    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        """The value of a payload that has this encoding."""


class CompositePayloadConverter(PayloadConverter):
    """Asks its converters in order, and the one that made a payload to read it."""

    converters: Mapping[bytes, EncodingPayloadConverter]

    def __init__(self, *converters: EncodingPayloadConverter) -> None:
        self.converters = {c.encoding.encode(): c for c in converters}

    def to_payloads(self, values: Sequence[Any]) -> list[Payload]:
        """One payload per value. Raises RuntimeError if no converter takes one of them."""
        return [self._to_payload(index, value) for index, value in enumerate(values)]

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """One value per payload. Raises KeyError for an encoding that no converter has."""
        values: list[Any] = []
        for payload, hint in zip_longest(payloads, (type_hints or [])[: len(payloads)]):
            if hint is RawValue:
                values.append(RawValue(payload))
                continue
            encoding = payload.metadata.get("encoding", b"<unknown>")
            if (converter := self.converters.get(encoding)) is None:
                known = ", ".join(name.decode() for name in self.converters)
                raise KeyError(
                    f"Unknown payload encoding {encoding.decode(errors='replace')}: known are {known}"
                )
            values.append(converter.from_payload(payload, hint))
        return values

    def _to_payload(self, index: int, value: Any) -> Payload:
        if isinstance(value, RawValue):
            return value.payload
        for converter in self.converters.values():
            if (payload := converter.to_payload(value)) is not None:
                return payload
        raise RuntimeError(f"Value at index {index} of type {type(value)} has no known converter")


class BinaryNullPayloadConverter(EncodingPayloadConverter):
    """Reads the `binary/null` payloads of other writers. None itself is written as JSON `null`."""

    encoding = "binary/null"

    def to_payload(self, value: Any) -> Payload | None:
        """Always None: JSON has a null of its own, and people read histories."""
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        """None."""
        if payload.data:
            raise RuntimeError("Expected empty data set for binary/null")
        return None


class BinaryPlainPayloadConverter(EncodingPayloadConverter):
    """`binary/plain`: bytes as they are."""

    encoding = "binary/plain"

    def to_payload(self, value: Any) -> Payload | None:
        """The payload of a bytes value."""
        if isinstance(value, bytes):
            return Payload({"encoding": b"binary/plain"}, value)
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        """The bytes."""
        return payload.data


class JSONNonFinitePayloadConverter(EncodingPayloadConverter):
    """`json/nonfinite`: values that hold NaN or an infinity, which proper JSON has no words for."""

    encoding = "json/nonfinite"

    def to_payload(self, value: Any) -> Payload | None:
        """The payload of a value with NaN or an infinity in it."""
        if value is not None and jsontext.has_nonfinite(value):
            return Payload({"encoding": b"json/nonfinite"}, jsontext.encode_extended(value))
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        """The value, typed by the hint."""
        return jsontext.decode_extended(payload.data, type_hint)


class JSONPlainPayloadConverter(EncodingPayloadConverter):
    """`json/plain`: plain values, dataclasses, msgspec Structs, enums, dates, UUIDs, iterables."""

    encoding = "json/plain"

    def to_payload(self, value: Any) -> Payload | None:
        """The payload of any value with a JSON form. Raises `Invalid` for all others."""
        return wire_payloads.plain(jsontext.encode_json(value))

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        """The value, typed by the hint."""
        return jsontext.decoder_for(type_hint)(payload.data)


class DefaultPayloadConverter(CompositePayloadConverter):
    """bytes as binary, everything else as JSON."""

    default_encoding_payload_converters: ClassVar[tuple[EncodingPayloadConverter, ...]] = (
        BinaryNullPayloadConverter(),
        BinaryPlainPayloadConverter(),
        JSONNonFinitePayloadConverter(),
        JSONPlainPayloadConverter(),
    )

    def __init__(self) -> None:
        super().__init__(*self.default_encoding_payload_converters)


class PayloadCodec(ABC):
    """Changes encoded payloads on their way out and in: encryption, compression."""

    @abstractmethod
    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """The payloads to send in place of these; as many."""

    @abstractmethod
    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """What `encode` was given."""


class FailureConverter(ABC):
    """Converts exceptions to recorded failures and back."""

    default: ClassVar[FailureConverter]

    @abstractmethod
    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter) -> Failure:
        """The recorded form of *exception* and its causes."""

    @abstractmethod
    def from_failure(self, failure: Failure, payload_converter: PayloadConverter) -> BaseException:
        """The exception of a recorded failure, with its causes as `__cause__`."""


class DefaultFailureConverter(FailureConverter):
    """Any exception becomes an application failure named after its class; our own keep their kind."""

    def __init__(self, *, encode_common_attributes: bool = False) -> None:
        super().__init__()
        self._encode_common_attributes = encode_common_attributes

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter) -> Failure:
        """The failure; message and stack trace are text, bounded in length."""
        return failures.from_exception(
            exception,
            lambda values: wire_payloads.join(
                [wire_payloads.to_text(p) for p in payload_converter.to_payloads(values)]
            ),
            hide_text=self._encode_common_attributes,
        )

    def from_failure(self, failure: Failure, payload_converter: PayloadConverter) -> BaseException:
        """The exception, with the recorded form as its `failure`."""
        return failures.to_exception(
            failure,
            lambda array: payload_converter.from_payloads(
                [wire_payloads.from_text(text) for text in wire_payloads.split(array)]
            ),
        )


class DefaultFailureConverterWithEncodedAttributes(DefaultFailureConverter):
    """Moves message and stack trace into the failure's details, where a codec reaches them."""

    def __init__(self) -> None:
        super().__init__(encode_common_attributes=True)


@dataclasses.dataclass(frozen=True)
class DataConverter:
    """How a client or a worker turns values into payloads, and exceptions into failures."""

    payload_converter_class: type[PayloadConverter] = DefaultPayloadConverter
    payload_codec: PayloadCodec | None = None
    failure_converter_class: type[FailureConverter] = DefaultFailureConverter
    payload_converter: PayloadConverter = dataclasses.field(init=False)
    failure_converter: FailureConverter = dataclasses.field(init=False)
    _is_plain: bool = dataclasses.field(init=False, repr=False, compare=False)

    default: ClassVar[DataConverter]

    def __post_init__(self) -> None:
        object.__setattr__(self, "payload_converter", self.payload_converter_class())
        object.__setattr__(self, "failure_converter", self.failure_converter_class())
        object.__setattr__(self, "_is_plain", self.payload_converter_class is DefaultPayloadConverter)

    async def encode(self, values: Sequence[Any]) -> list[Payload]:
        """The payloads of *values*, the codec applied."""
        payloads = self.payload_converter.to_payloads(values)
        return await self.payload_codec.encode(payloads) if self.payload_codec else payloads

    async def decode(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """The values of *payloads*, the codec undone."""
        if self.payload_codec:
            payloads = await self.payload_codec.decode(payloads)
        return self.payload_converter.from_payloads(payloads, type_hints)

    def encode_args(self, values: Sequence[Any]) -> bytes:
        """JSON array text, one element per value.

        Raises `Invalid` naming the argument that has no encoding, or if the whole is over 2 MiB.
        """
        texts = []
        for index, value in enumerate(values):
            try:
                texts.append(self._text(value))
            except Invalid as error:
                raise Invalid(f"argument {index + 1} of {len(values)}: {error.message}") from error
        return _within_limit(wire_payloads.join(texts), "the arguments")

    def decode_args(self, array: bytes, types: Sequence[Any] | None = None) -> list[Any]:
        """The values of JSON array text; those beyond the end of *types* are untyped.

        Raises `Invalid` naming the argument that does not decode, and the type it was to have.
        """
        texts = wire_payloads.split(array)
        hints = types or ()
        values = []
        for index, text in enumerate(texts):
            hint = hints[index] if index < len(hints) else None
            try:
                values.append(self._value(text, hint))
            except Invalid as error:
                raise Invalid(f"argument {index + 1} of {len(texts)}: {error.message}") from error
        return values

    def encode_value(self, value: Any) -> bytes:
        """JSON text of one value. Raises `Invalid` if it has no encoding, or one of over 2 MiB."""
        return _within_limit(self._text(value), "the value")

    def decode_value(self, text: bytes, hint: Any = None) -> Any:
        """The value of JSON text. Raises `Invalid` naming the type that it does not fit."""
        return self._value(text, hint)

    def encode_failure(self, exception: BaseException) -> Failure:
        """The recorded form of *exception*. Does not raise: details that have no encoding are left out, and said."""
        return self.failure_converter.to_failure(exception, self.payload_converter)

    def decode_failure(self, failure: Failure) -> BaseException:
        """The exception of a recorded failure."""
        return self.failure_converter.from_failure(failure, self.payload_converter)

    async def seal(self, array: bytes) -> bytes:
        """JSON array text with the codec applied to each element; unchanged without a codec."""
        if self.payload_codec is None or array in (b"", wire_payloads.EMPTY):
            return array
        inner = [wire_payloads.from_text(text) for text in wire_payloads.split(array)]
        sealed = await self.payload_codec.encode(inner)
        if len(sealed) != len(inner):
            raise Invalid(
                f"the payload codec made {len(sealed)} payloads of {len(inner)}: expected as many, return one for each"
            )
        return _within_limit(
            wire_payloads.join([wire_payloads.to_text(p) for p in sealed]), "the sealed payload"
        )

    async def unseal(self, array: bytes) -> bytes:
        """What `seal` was given."""
        if self.payload_codec is None or array in (b"", wire_payloads.EMPTY):
            return array
        outer = [wire_payloads.from_text(text) for text in wire_payloads.split(array)]
        opened = await self.payload_codec.decode(outer)
        return wire_payloads.join([wire_payloads.to_text(p) for p in opened])

    async def unseal_value(self, text: bytes) -> bytes:
        """As `unseal`, for one value that stands alone."""
        return text if self.payload_codec is None else (await self.unseal(b"[" + text + b"]"))[1:-1]

    def _text(self, value: Any) -> bytes:
        if not self._is_plain:
            return wire_payloads.to_text(_convert(self.payload_converter, value))
        if isinstance(value, bytes | RawValue):
            return wire_payloads.to_text(self.payload_converter.to_payload(value))
        try:
            return wire_payloads.to_text(wire_payloads.plain(jsontext.encode_json(value)))
        except Invalid:
            if value is not None and jsontext.has_nonfinite(value):
                return wire_payloads.to_text(self.payload_converter.to_payload(value))
            raise

    def _value(self, text: bytes, hint: Any) -> Any:
        try:
            if self._is_plain and hint is not RawValue and text[:1] != b"{":
                return jsontext.decoder_for(hint)(text)
            payload = wire_payloads.from_text(text)
            if self._is_plain and hint is not RawValue and payload.metadata.get("encoding") == JSON_PLAIN:
                return jsontext.decoder_for(hint)(payload.data)
            return self.payload_converter.from_payloads([payload], None if hint is None else [hint])[0]
        except Exception as error:  # a user's payload converter and types run here
            raise Invalid(
                f"{len(text)} bytes do not decode as {jsontext.type_name(hint) if hint else 'a value'}: "
                f"{_reason(error)}; they begin {text[:60]!r}"
            ) from error


def default() -> DataConverter:
    """The data converter used when none is given."""
    return DataConverter.default


def _convert(converter: PayloadConverter, value: Any) -> Payload:
    try:
        return converter.to_payload(value)
    except (FailureError, Invalid):
        raise
    except Exception as error:  # a user's payload converter runs here
        raise Invalid(
            f"{type(converter).__name__} cannot encode a {jsontext.type_name(type(value))}: {error}"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, msgspec.ValidationError | Invalid):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _within_limit(text: bytes, what: str) -> bytes:
    if len(text) > PAYLOAD_BYTES_MAX:
        raise Invalid(
            f"{what} take {len(text)} bytes when encoded; the limit is {PAYLOAD_BYTES_MAX}: "
            "keep large data elsewhere and pass a reference"
        )
    return text


DataConverter.default = DataConverter()
PayloadConverter.default = DataConverter.default.payload_converter
FailureConverter.default = DataConverter.default.failure_converter
