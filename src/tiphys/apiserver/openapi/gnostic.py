"""The OpenAPI v2 document in gnostic's protobuf form, which is the only one current kubectl asks for.

Message and field numbers: https://github.com/google/gnostic-models, openapiv2/OpenAPIv2.proto. Only what our document
has is encoded. A message is its encoded fields joined; `_field` adds one length-delimited field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from tiphys.machinery.codec.protobuf import varint

Object = dict[str, Any]


def _field(number: int, data: bytes | str) -> bytes:
    raw = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def _text(number: int, value: str | None) -> bytes:
    return _field(number, value) if value else b""


def _texts(number: int, values: Iterable[str]) -> bytes:
    return b"".join(_field(number, value) for value in values)


def _flag(number: int, value: object) -> bytes:
    return varint(number << 3) + b"\x01" if value else b""


def _any(value: Any) -> bytes:
    """Any { value = 1, yaml = 2 }: the value as YAML, of which JSON is a part."""
    return _field(2, orjson.dumps(value) + b"\n")


def _extensions(number: int, owner: Object) -> bytes:
    return b"".join(
        _field(number, _field(1, key) + _field(2, _any(value))) for key, value in owner.items() if key.startswith("x-")
    )


def _named(number: int, name: str, value: bytes) -> bytes:
    return _field(number, _field(1, name) + _field(2, value))


def schema(value: Object) -> bytes:
    """Schema."""
    parts = [_text(1, value.get("$ref")), _text(2, value.get("format")), _text(4, value.get("description"))]
    if "default" in value:
        parts.append(_field(5, _any(value["default"])))
    parts.append(_texts(19, value.get("required", ())))
    parts += [_field(20, _any(one)) for one in value.get("enum", ())]
    additional = value.get("additionalProperties")
    if isinstance(additional, dict):
        parts.append(_field(21, _field(1, schema(additional))))
    elif additional is True:
        parts.append(_field(21, varint(2 << 3) + b"\x01"))
    if "type" in value:
        parts.append(_field(22, _field(1, value["type"])))
    if "items" in value:
        parts.append(_field(23, _field(1, schema(value["items"]))))
    if "properties" in value:
        named = b"".join(_named(1, name, schema(one)) for name, one in value["properties"].items())
        parts.append(_field(25, named))
    parts.append(_extensions(31, value))
    return b"".join(parts)


# NonBodyParameter: its field by the place of the parameter, then the numbers of (type) in that message.
_PLACES: Final = {"query": (3, 6), "path": (4, 5), "header": (1, 5)}


def _parameter(value: Object) -> bytes:
    """ParametersItem { Parameter parameter = 1 }."""
    place = value["in"]
    if place == "body":
        body = (
            _text(2, value["name"])
            + _text(3, place)
            + _flag(4, value.get("required"))
            + _field(5, schema(value["schema"]))
        )
        return _field(1, _field(1, body))
    number, type_number = _PLACES[place]
    inner = (
        _flag(1, value.get("required"))
        + _text(2, place)
        + _text(3, value.get("description"))
        + _text(4, value["name"])
        + _text(type_number, value["type"])
    )
    return _field(1, _field(2, _field(number, inner)))


def _response(value: Object) -> bytes:
    """ResponseValue { Response response = 1 }."""
    inner = _text(1, value["description"])
    if "schema" in value:
        inner += _field(2, _field(1, schema(value["schema"])))
    return _field(1, inner)


def _operation(value: Object) -> bytes:
    responses = b"".join(_named(1, code, _response(one)) for code, one in value["responses"].items())
    return b"".join(
        [
            _texts(1, value.get("tags", ())),
            _text(3, value.get("description")),
            _text(5, value.get("operationId")),
            _texts(6, value.get("produces", ())),
            _texts(7, value.get("consumes", ())),
            *(_field(8, _parameter(one)) for one in value.get("parameters", ())),
            _field(9, responses),
            _texts(10, value.get("schemes", ())),
            _extensions(13, value),
        ]
    )


_METHODS: Final = {"get": 2, "put": 3, "post": 4, "delete": 5, "options": 6, "head": 7, "patch": 8}


def _path_item(value: Object) -> bytes:
    parts = [_field(number, _operation(value[method])) for method, number in _METHODS.items() if method in value]
    parts += [_field(9, _parameter(one)) for one in value.get("parameters", ())]
    return b"".join(parts)


def encode_document(document: Object) -> bytes:
    """Document { swagger = 1, info = 2, paths = 8, definitions = 9 }."""
    info = _text(1, document["info"]["title"]) + _text(2, document["info"]["version"])
    paths = b"".join(_named(2, path, _path_item(item)) for path, item in document["paths"].items())
    definitions = b"".join(_named(1, name, schema(one)) for name, one in document["definitions"].items())
    return _text(1, document["swagger"]) + _field(2, info) + _field(8, paths) + _field(9, definitions)
