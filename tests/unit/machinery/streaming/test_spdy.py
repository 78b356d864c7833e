"""SPDY/3.1 frames: what one end encodes the other decodes, in any pieces."""

from __future__ import annotations

import zlib

import pytest

from tiphys.machinery.streaming import spdy

FRAMES: list[spdy.Frame] = [
    spdy.SynStream(1, {"streamtype": "error", "port": "80"}),
    spdy.SynReply(1),
    spdy.Data(1, b"hello"),
    spdy.SynStream(3, {"streamtype": "data", "requestid": "0"}, fin=True),
    spdy.Data(1, b"", fin=True),
    spdy.Ping(7),
    spdy.RstStream(3, spdy.CANCEL),
    spdy.GoAway(3),
]


def test_the_dictionary_is_the_specifications() -> None:
    assert len(spdy.DICTIONARY) == 1423
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_frames_survive_the_way(size: int) -> None:
    encoder, decoder = spdy.Encoder(), spdy.Decoder()
    data = b"".join(encoder.encode(frame) for frame in FRAMES)
    found = [frame for start in range(0, len(data), size) for frame in decoder.feed(data[start : start + size])]
    assert found == FRAMES


def test_layout_of_a_data_frame() -> None:
    assert spdy.Encoder().encode(spdy.Data(5, b"ab", fin=True)) == b"\0\0\0\5\1\0\0\2ab"


def test_frames_without_a_meaning_here_are_passed_over() -> None:
    settings = b"\x80\x03\x00\x04\x00\x00\x00\x04\0\0\0\0"
    window = b"\x80\x03\x00\x09\x00\x00\x00\x08\0\0\0\1\0\0\0\1"
    assert spdy.Decoder().feed(settings + window + spdy.Encoder().encode(spdy.Ping(1))) == [spdy.Ping(1)]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x80\x02\x00\x01\x00\x00\x00\x0a" + bytes(10), id="version 2"),
        pytest.param(b"\x80\x03\x00\x01\x00\x00\x00\x0e" + bytes(10) + b"junk", id="broken header block"),
        pytest.param(b"\x80\x03\x00\x03\x00\x00\x00\x02\0\0", id="short frame"),
    ],
)
def test_broken_frames(data: bytes) -> None:
    with pytest.raises(spdy.SpdyError):
        spdy.Decoder().feed(data)
