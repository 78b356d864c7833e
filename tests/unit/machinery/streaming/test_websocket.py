"""WebSocket frames and handshakes against the examples of RFC 6455."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiphys.machinery.streaming import http, websocket
from tiphys.machinery.streaming.websocket import Decoder, Message, Opcode, WebSocketError

EXAMPLES = [
    pytest.param(b"\x81\x05Hello", False, [Message(Opcode.TEXT, b"Hello")], id="unmasked text"),
    pytest.param(bytes.fromhex("818537fa213d7f9f4d5158"), True, [Message(Opcode.TEXT, b"Hello")], id="masked text"),
    pytest.param(b"\x01\x03Hel\x80\x02lo", False, [Message(Opcode.TEXT, b"Hello")], id="fragments"),
    pytest.param(
        b"\x01\x03Hel\x89\x00\x80\x02lo",
        False,
        [Message(Opcode.PING, b""), Message(Opcode.TEXT, b"Hello")],
        id="ping between fragments",
    ),
    pytest.param(b"\x82\x7e\x01\x00" + b"x" * 256, False, [Message(Opcode.BINARY, b"x" * 256)], id="16-bit length"),
]


@pytest.mark.parametrize(("data", "masked", "messages"), EXAMPLES)
def test_decoding(data: bytes, masked: bool, messages: list[Message]) -> None:
    decoder = Decoder(masked=masked)
    assert [found for byte in data for found in decoder.feed(bytes((byte,)))] == messages


@given(st.binary(max_size=70_000), st.booleans())
def test_what_is_encoded_is_decoded(data: bytes, mask: bool) -> None:
    frame = websocket.encode(Opcode.BINARY, data, mask=mask)
    assert Decoder(masked=mask).feed(frame) == [Message(Opcode.BINARY, data)]


@pytest.mark.parametrize(
    ("data", "masked"),
    [
        pytest.param(b"\x81\x05Hello", True, id="a client must mask"),
        pytest.param(bytes.fromhex("818537fa213d7f9f4d5158"), False, id="a server must not"),
        pytest.param(b"\xc1\x00", False, id="reserved bit"),
        pytest.param(b"\x83\x00", False, id="unknown opcode"),
        pytest.param(b"\x80\x00", False, id="continuation of nothing"),
        pytest.param(b"\x01\x00\x01\x00", False, id="a message within a message"),
        pytest.param(b"\x09\x00", False, id="fragmented ping"),
        pytest.param(b"\x82\x7f\x00\x00\x00\x00\xff\xff\xff\xff", False, id="too big"),
    ],
)
def test_broken_frames(data: bytes, masked: bool) -> None:
    with pytest.raises(WebSocketError):
        Decoder(masked=masked).feed(data)


def test_accept_key() -> None:
    assert websocket.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("offered", "supported", "chosen"),
    [(["v5", "v4"], ["v4", "v5"], "v5"), (["v9", "v4"], ["v4"], "v4"), ([], ["v4"], "")],
)
def test_handshake(offered: list[str], supported: list[str], chosen: str) -> None:
    request = websocket.request("/exec", "host", offered)
    assert websocket.is_request(http.parse_request(request.encode()))
    response, found = websocket.accept(request, supported)
    assert found == chosen
    assert websocket.confirm(request, http.parse_response(response.encode())) == chosen


def test_no_common_protocol() -> None:
    with pytest.raises(http.HTTPError) as caught:
        websocket.accept(websocket.request("/", "host", ["v9"]), ["v4"])
    assert caught.value.status == 400
