"""The binary encoding of the API: protobuf (proto2), driven by a table of messages.

    6b 38 73 00 │ Unknown { typeMeta{apiVersion, kind}  raw  contentEncoding  contentType }      "k8s\\0", then
                                                        └─ the object's own message

Between plain JSON values and bytes: an embedded struct is a message in the bytes and its members in JSON; a time, a
quantity, an integer-or-string and raw JSON are messages too. Fields come in the order of their numbers, maps by key;
plain values are written even when they are empty, as the server's encoder does. Source: Protocol Buffers encoding
documentation; the message tables of the Kubernetes API.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from struct import pack, unpack_from
from typing import Any, Final

import orjson

from tiphys.machinery.time import (
    format_duration,
    format_micro_time,
    format_time,
    parse_duration_ns,
    parse_rfc3339,
)

Object = dict[str, Any]
Encode = Callable[[Any], bytes]
Decode = Callable[[memoryview], Any]

MAGIC: Final = b"k8s\x00"
VARINT, FIXED64, LENGTH = 0, 1, 2
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class ProtobufError(ValueError):
    """Bytes that are no message of this type."""


def varint(value: int) -> bytes:
    """A number in groups of seven bits; a negative one takes ten bytes."""
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """(number, position after it)."""
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ProtobufError("unexpected EOF")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def _tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


class _Scalar:
    """A scalar's wire type, its encoding and decoding, and its zero."""

    __slots__ = ("decode", "encode", "wire_type", "zero")

    def __init__(self, wire_type: int, encode: Encode, decode: Callable[[Any], Any], zero: Any) -> None:
        self.wire_type = wire_type
        self.encode = encode
        self.decode = decode
        self.zero = zero


_SCALARS: Final[Mapping[str, _Scalar]] = {
    "s": _Scalar(LENGTH, lambda v: _sized(v.encode()), lambda v: str(v, "utf-8"), ""),
    "y": _Scalar(LENGTH, lambda v: _sized(b64decode(v)), lambda v: b64encode(v).decode(), ""),
    "b": _Scalar(VARINT, lambda v: b"\x01" if v else b"\x00", bool, False),
    "i": _Scalar(VARINT, varint, _signed, 0),
    "f": _Scalar(FIXED64, lambda v: pack("<d", v), lambda v: _plain_float(unpack_from("<d", v)[0]), 0),
}


def _plain_float(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < 1e21 else value


class Message:
    """One message of the table; compiled at first use, as messages contain each other."""

    def __init__(self, name: str, facts: Mapping[str, Any], table: Table) -> None:
        self.name = name
        self.facts = facts
        self.table = table
        self.special = _SPECIAL.get(name)
        self._encoders: list[Callable[[Object, list[bytes]], None]] | None = None
        self._decoders: dict[int, tuple[int, Callable[[Object, Any], None]]] | None = None

    def encode(self, value: Any) -> bytes:
        """The message of a value. Absent and null members are left out, or zero where the table says so."""
        if self.special is not None:
            return self.special[0](value, self.table)
        out: list[bytes] = []
        if self._encoders is None:
            self._encoders = [self._encoder(*fact) for fact in self.facts["f"]]
        for encode in self._encoders:
            encode(value, out)
        return b"".join(out)

    def decode(self, data: memoryview) -> Any:
        """The value of a message; fields that the table does not know are skipped. Raises ProtobufError."""
        if self.special is not None:
            return self.special[1](data, self.table)
        out: Object = {}
        self.decode_into(data, out)
        return out

    def decode_into(self, data: memoryview, out: Object) -> None:
        if self._decoders is None:
            self._decoders = {fact[1]: self._decoder(*fact) for fact in self.facts["f"]}
        for number, wire_type, found in fields_of(data):
            known = self._decoders.get(number)
            if known is None:
                continue
            if wire_type != known[0]:
                raise ProtobufError(f"wrong wireType = {wire_type} for field {number} of {self.name}")
            known[1](out, found)

    def _encoder(self, key: str, number: int, node: str) -> Callable[[Object, list[bytes]], None]:
        kept = number in self.facts.get("z", ())
        kind = node[0]
        if kind == "[":
            return self._repeated_encoder(key, number, node[1:])
        if kind == "{":
            return self._map_encoder(key, number, node[1:])
        if kind == "@":
            return self._message_encoder(key, _tag(number, LENGTH), self.table[node[1:]], kept)
        scalar = _SCALARS[kind]
        tag = _tag(number, scalar.wire_type)
        zero = tag + scalar.encode(scalar.zero) if kept else b""

        def encode(value: Object, out: list[bytes]) -> None:
            found = value.get(key)
            out.append(zero if found is None else tag + scalar.encode(found))

        return encode

    def _message_encoder(
        self, key: str, tag: bytes, message: Message, kept: bool
    ) -> Callable[[Object, list[bytes]], None]:
        def encode(value: Object, out: list[bytes]) -> None:
            found = value if not key else value.get(key)
            if found is not None:
                out.append(tag + _sized(message.encode(found)))
            elif kept:
                out.append(tag + _sized(message.encode(message.empty())))

        return encode

    def empty(self) -> Any:
        """The value whose message is that of an absent one that is written all the same."""
        return _EMPTY.get(self.name, {})

    def _repeated_encoder(self, key: str, number: int, node: str) -> Callable[[Object, list[bytes]], None]:
        wire_type, one = self._item(node)
        tag = _tag(number, wire_type)

        def encode(value: Object, out: list[bytes]) -> None:
            out.extend([tag + one(item) for item in value.get(key) or ()])

        return encode

    def _item(self, node: str) -> tuple[int, Encode]:
        if node[0] == "@":
            message = self.table[node[1:]]
            return LENGTH, lambda value: _sized(message.encode(message.empty() if value is None else value))
        return _SCALARS[node].wire_type, _SCALARS[node].encode

    def _map_encoder(self, key: str, number: int, node: str) -> Callable[[Object, list[bytes]], None]:
        wire_type, one = self._item(node)
        tag, value_tag = _tag(number, LENGTH), _tag(2, wire_type)
        skips_empty = node == "y"

        def encode(value: Object, out: list[bytes]) -> None:
            found: Mapping[str, Any] = value.get(key) or {}
            for name in sorted(found):
                item = found[name]
                entry = b"\x0a" + _sized(name.encode())
                if item or not skips_empty:
                    entry += value_tag + one(item)
                out.append(tag + _sized(entry))

        return encode

    def _decoder(self, key: str, number: int, node: str) -> tuple[int, Callable[[Object, Any], None]]:
        kind = node[0]
        if kind == "[":
            wire_type, read = self._reader(node[1:])
            return wire_type, lambda out, found: out.setdefault(key, []).append(read(found))
        if kind == "{":
            return LENGTH, self._map_decoder(key, node[1:])
        if kind == "@" and not key:
            message = self.table[node[1:]]
            return LENGTH, lambda out, found: message.decode_into(found, out)
        wire_type, read = self._reader(node)

        def decode(out: Object, found: Any) -> None:
            out[key] = read(found)

        return wire_type, decode

    def _reader(self, node: str) -> tuple[int, Callable[[Any], Any]]:
        if node[0] == "@":
            return LENGTH, self.table[node[1:]].decode
        return _SCALARS[node].wire_type, _SCALARS[node].decode

    def _map_decoder(self, key: str, node: str) -> Callable[[Object, Any], None]:
        _, read = self._reader(node)
        absent = self.table[node[1:]].empty() if node[0] == "@" else _SCALARS[node].zero

        def decode(out: Object, found: memoryview) -> None:
            name, value = "", absent
            for number, _, part in fields_of(found):
                if number == 1:
                    name = str(part, "utf-8")
                elif number == 2:
                    value = read(part)
            out.setdefault(key, {})[name] = value

        return decode


def fields_of(data: memoryview) -> list[tuple[int, int, Any]]:
    """(number, wire type, value) of every field: a number, or the bytes of everything else. Raises ProtobufError."""
    out: list[tuple[int, int, Any]] = []
    position, end = 0, len(data)
    while position < end:
        key, position = read_varint(data, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == VARINT:
            value, position = read_varint(data, position)
            out.append((number, wire_type, value))
            continue
        if wire_type == LENGTH:
            size, position = read_varint(data, position)
        elif wire_type in {FIXED64, 5}:
            size = 8 if wire_type == FIXED64 else 4
        else:
            raise ProtobufError(f"illegal wireType {wire_type}")
        if position + size > end:
            raise ProtobufError("unexpected EOF")
        out.append((number, wire_type, data[position : position + size]))
        position += size
    return out


class Table(dict[str, Message]):
    """Messages by name, made of their facts when first asked for."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.facts = facts

    def __missing__(self, name: str) -> Message:
        message = self[name] = Message(name, self.facts[name], self)
        return message


# What the special messages have for JSON when they are empty.
_EMPTY: Final[Mapping[str, Any]] = {
    "meta.v1.Time": None,
    "meta.v1.MicroTime": None,
    "quantity.Quantity": "0",
    "intstr.IntOrString": 0,
    "runtime.RawExtension": None,
    "meta.v1.FieldsV1": None,
    "apiextensions.v1.JSON": None,
    "meta.v1.Verbs": [],
}


def _encode_time(value: Any, _: Table) -> bytes:
    if value is None:
        return b""
    since = parse_rfc3339(value) - _EPOCH
    seconds, rest = divmod(since, timedelta(seconds=1))
    return b"\x08" + varint(seconds) + b"\x10" + varint(rest.microseconds * 1000)


def _moment(data: memoryview) -> datetime | None:
    parts = {number: value for number, _, value in fields_of(data)}
    if not parts:
        return None
    return _EPOCH + timedelta(seconds=_signed(parts.get(1, 0)), microseconds=parts.get(2, 0) // 1000)


def _decode_time(data: memoryview, _: Table) -> Any:
    at = _moment(data)
    return None if at is None else format_time(at)


def _decode_micro_time(data: memoryview, _: Table) -> Any:
    at = _moment(data)
    return None if at is None else format_micro_time(at)


def _encode_text(value: Any, _: Table) -> bytes:
    return b"\x0a" + _sized(str(value).encode())


def _decode_text(data: memoryview, _: Table) -> Any:
    return next((str(value, "utf-8") for number, _, value in fields_of(data) if number == 1), "")


def _encode_int_or_string(value: Any, _: Table) -> bytes:
    if isinstance(value, str):
        return b"\x08\x01\x10\x00\x1a" + _sized(value.encode())
    return b"\x08\x00\x10" + varint(value) + b"\x1a\x00"


def _decode_int_or_string(data: memoryview, _: Table) -> Any:
    parts = {number: value for number, _, value in fields_of(data)}
    return str(parts.get(3, b""), "utf-8") if parts.get(1) == 1 else _signed(parts.get(2, 0))


def _encode_raw(value: Any, _: Table) -> bytes:
    return b"" if value is None else b"\x0a" + _sized(orjson.dumps(value))


def _decode_raw(data: memoryview, _: Table) -> Any:
    raw = next((value for number, _, value in fields_of(data) if number == 1), b"")
    try:
        return orjson.loads(raw) if raw else None
    except orjson.JSONDecodeError as error:
        raise ProtobufError(f"raw JSON: {error}") from None


def _encode_items(value: Any, _: Table) -> bytes:
    return b"".join(b"\x0a" + _sized(one.encode()) for one in value or ())


def _decode_items(data: memoryview, _: Table) -> Any:
    return [str(value, "utf-8") for number, _, value in fields_of(data) if number == 1]


def _encode_duration(value: Any, _: Table) -> bytes:
    return b"\x08" + varint(parse_duration_ns(value))


def _decode_duration(data: memoryview, _: Table) -> Any:
    nanoseconds = next((_signed(value) for number, _, value in fields_of(data) if number == 1), 0)
    return format_duration(timedelta(microseconds=nanoseconds / 1000))


def _schema_or(version: str, other: str) -> tuple[Any, Any]:
    """A JSON schema, or `other`: allows (a boolean), schemas (a list of schemas), property (a list of names)."""
    name = f"apiextensions.{version}.JSONSchemaProps"

    def encode(value: Any, table: Table) -> bytes:
        schema = b""
        if isinstance(value, dict):
            schema = _sized(table[name].encode(value))
        if other == "allows":
            allowed = b"\x08\x01" if value is not False else b"\x08\x00"
            return allowed + (b"\x12" + schema if schema else b"")
        if schema:
            return b"\x0a" + schema
        if other == "schemas":
            return b"".join(b"\x12" + _sized(table[name].encode(one)) for one in value)
        return b"".join(b"\x12" + _sized(one.encode()) for one in value)

    def decode(data: memoryview, table: Table) -> Any:
        found = fields_of(data)
        schema_at = 2 if other == "allows" else 1
        schema = next((value for number, _, value in found if number == schema_at), None)
        if schema is not None:
            return table[name].decode(schema)
        if other == "allows":
            return any(value for number, _, value in found if number == 1)
        rest = [value for number, _, value in found if number == 2]
        return [table[name].decode(one) for one in rest] if other == "schemas" else [str(one, "utf-8") for one in rest]

    return encode, decode


# Messages whose JSON is no object of their fields: (encode, decode).
_SPECIAL: Final[dict[str, tuple[Callable[[Any, Table], bytes], Callable[[memoryview, Table], Any]]]] = {
    "meta.v1.Time": (_encode_time, _decode_time),
    "meta.v1.MicroTime": (_encode_time, _decode_micro_time),
    "meta.v1.Duration": (_encode_duration, _decode_duration),
    "meta.v1.FieldsV1": (_encode_raw, _decode_raw),
    "meta.v1.Verbs": (_encode_items, _decode_items),
    "quantity.Quantity": (_encode_text, _decode_text),
    "intstr.IntOrString": (_encode_int_or_string, _decode_int_or_string),
    "runtime.RawExtension": (_encode_raw, _decode_raw),
    **{
        f"{group}.{version}.ExtraValue": (_encode_items, _decode_items)
        for group in ("authentication", "authorization", "certificates")
        for version in ("v1", "v1beta1")
    },
    **{
        f"apiextensions.{version}.{name}": pair
        for version in ("v1", "v1beta1")
        for name, pair in (
            ("JSON", (_encode_raw, _decode_raw)),
            ("JSONSchemaPropsOrBool", _schema_or(version, "allows")),
            ("JSONSchemaPropsOrArray", _schema_or(version, "schemas")),
            ("JSONSchemaPropsOrStringArray", _schema_or(version, "property")),
        )
    },
}


def encode_envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    """A message with the magic prefix and the kind, as bodies have it."""
    meta = b"\x0a" + _sized(api_version.encode()) + b"\x12" + _sized(kind.encode())
    return MAGIC + b"\x0a" + _sized(meta) + b"\x12" + _sized(raw) + b"\x1a\x00\x22\x00"


def decode_envelope(data: bytes) -> tuple[str, str, memoryview]:
    """(apiVersion, kind, message) of a body. Raises ProtobufError."""
    if not data.startswith(MAGIC):
        raise ProtobufError("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    api_version = kind = ""
    raw = memoryview(b"")
    for number, wire_type, value in fields_of(memoryview(data)[len(MAGIC) :]):
        if wire_type != LENGTH:
            raise ProtobufError("the body is no object")
        if number == 1:
            meta = {n: str(v, "utf-8") for n, _, v in fields_of(value)}
            api_version, kind = meta.get(1, ""), meta.get(2, "")
        elif number == 2:
            raw = value
    return api_version, kind, raw
