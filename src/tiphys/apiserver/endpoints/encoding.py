"""Encoding of decoded values in the negotiated media type."""

from __future__ import annotations

from typing import Any

import orjson

from tiphys.api.protobuf import encode_object_protobuf
from tiphys.apiserver.endpoints.negotiation import AS_IT_IS, JSON, PROTOBUF, YAML, Wanted, negotiate
from tiphys.apiserver.http.response import Headers, Response, status_response
from tiphys.machinery.codec import encode_yaml
from tiphys.machinery.codec.protobuf import varint
from tiphys.machinery.errors import StatusError, not_acceptable


def encode_value(value: Any, media_type: str, *, pretty: bool = False) -> bytes:
    """A JSON value (with apiVersion and kind) in a media type."""
    if media_type == YAML:
        return encode_yaml(value)
    if media_type == PROTOBUF:
        try:
            return encode_object_protobuf(value)
        except KeyError:
            # Tables, CustomResources: what has no protobuf messages cannot be asked for in it.
            raise not_acceptable(
                "only the following media types are accepted: application/json, application/yaml"
            ) from None
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if pretty else 0))


def value_response(status: int, value: Any, wanted: Wanted, headers: Headers = ()) -> Response:
    """A response carrying a decoded value."""
    body = encode_value(value, wanted.media_type, pretty=wanted.pretty)
    return Response(status, body, content_type=wanted.media_type, headers=headers)


def encode_event(kind: str, value: Any, media_type: str) -> bytes:
    """One watch event in JSON, YAML or protobuf.

    Protobuf events come after their length (4 bytes, big endian): WatchEvent { type = 1, object = 2 { raw = 1 } }.
    """
    if media_type != PROTOBUF:
        return encode_value({"type": kind, "object": value}, media_type)
    obj = _field(1, encode_object_protobuf(value))
    message = _field(1, kind.encode()) + _field(2, obj)
    return len(message).to_bytes(4, "big") + message


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def refusal(error: StatusError, accept: str) -> Response:
    """The Status of an error in the encoding an Accept header asks for, JSON when it asks for none we have."""
    answer = status_response(error)
    if not accept or accept == JSON:
        return answer
    try:
        media_type = negotiate(accept, transforms=AS_IT_IS).media_type
    except StatusError:
        return answer
    if media_type != JSON:
        answer.body, answer.content_type = encode_value(dict(error.status), media_type), media_type
    return answer
