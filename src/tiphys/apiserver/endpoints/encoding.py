"""Encoding of decoded values in the negotiated media type."""

from __future__ import annotations

from typing import Any

import orjson

from tiphys.apiserver.endpoints.negotiation import PROTOBUF, YAML, Wanted
from tiphys.apiserver.http.response import Headers, Response
from tiphys.machinery.codec import encode_yaml


def encode_value(value: Any, media_type: str, *, pretty: bool = False) -> bytes:
    """A JSON value (with apiVersion and kind) in a media type."""
    if media_type == YAML:
        return encode_yaml(value)
    if media_type == PROTOBUF:
        from tiphys.machinery.codec import protobuf

        return protobuf.encode(value)
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if pretty else 0))


def value_response(status: int, value: Any, wanted: Wanted, headers: Headers = ()) -> Response:
    """A response carrying a decoded value."""
    body = encode_value(value, wanted.media_type, pretty=wanted.pretty)
    return Response(status, body, content_type=wanted.media_type, headers=headers)
