"""Names of questions, and answers whose records were encoded before."""

from __future__ import annotations

import struct

import pytest

from tiphys.dns.message import (
    AAAA,
    NXDOMAIN,
    SRV,
    A,
    Record,
    Reply,
    address_record,
    encode,
    encoded,
    parse_query,
    soa_record,
    srv_record,
)

OPT = b"\0" + struct.pack(">HHIH", 41, 1232, 0, 0)


def query(name: bytes, kind: int = A, extra: bytes = b"") -> bytes:
    return struct.pack(">6H", 7, 0x0100, 1, 0, 0, 1 if extra else 0) + name + struct.pack(">HH", kind, 1) + extra


@pytest.mark.parametrize(
    ("written", "name"),
    [
        pytest.param(b"\0", ".", id="root"),
        pytest.param(b"\x03WeB\x07default\0", "web.default.", id="lower case"),
        pytest.param(b"\x03a\0b\x01c\0", "a\0b.c.", id="a zero in a label"),
        pytest.param(b"\x03a.b\x01c\0", "a\\.b.c.", id="a dot in a label"),
        pytest.param(b"\x02a\xe9\0", "a\xe9.", id="a label that ends like a pointer"),
        pytest.param(b"\x01a\xc0\x00", "a.", id="a pointer into the header, which begins with a zero"),
    ],
)
def test_name_of_a_question(written: bytes, name: str) -> None:
    for _ in range(2):  # read, and remembered
        assert parse_query(query(written))[2:5] == (name, A, written + b"\0\x01\0\x01")


def test_a_name_that_points_elsewhere_is_not_remembered() -> None:
    data = query(b"\x01a\xc0\x00")
    assert parse_query(data).name == "a."
    assert parse_query(b"\x01b\0" + data[3:]).name == "a.b."


def test_names_that_differ_in_case_keep_their_question() -> None:
    one, other = parse_query(query(b"\x03web\0")), parse_query(query(b"\x03WEB\0"))
    assert one.name == other.name
    assert (one.question[:5], other.question[:5]) == (b"\x03web\0", b"\x03WEB\0")


NAME = "web.default.svc.cluster.local."
WRITTEN = b"\x03web\x07default\x03svc\x07cluster\x05local\0"
MANY = [address_record(NAME, f"10.244.0.{number}", 30) for number in range(1, 60)]
SOA = soa_record("cluster.local.", 30, "ns.dns.cluster.local.", "hostmaster.cluster.local.", 1)
REPLIES = {
    "one": Reply(answers=MANY[:1], authoritative=True),
    "none": Reply(authority=(SOA,), authoritative=True),
    "denied": Reply(NXDOMAIN, authority=(SOA,), authoritative=True),
    "many": Reply(answers=MANY, authoritative=True),
    "additional": Reply(
        answers=[srv_record(NAME, 30, 0, 50, port, f"h.{NAME}") for port in (53, 80)],
        additional=[Record(f"h.{NAME}", A, 30, b"\x0a\0\0\1"), Record(f"h.{NAME}", AAAA, 30, b"\0" * 16)],
    ),
}


@pytest.mark.parametrize("extra", [b"", OPT], ids=["plain", "EDNS"])
@pytest.mark.parametrize("limit", [40, 100, 140, 512, 1232, 65535])
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_encoded_before_is_the_same(reply: Reply, limit: int, extra: bytes) -> None:
    asked = parse_query(query(WRITTEN, SRV, extra))
    other = parse_query(query(WRITTEN.upper(), SRV))
    before = encoded(other, reply)
    assert before.encoded is not None
    assert encode(asked, before, limit) == encode(asked, reply, limit)
    assert len(encode(asked, reply, limit)) <= max(limit, 12 + len(asked.question) + len(extra))


def test_encoded_for_a_question_of_another_length_is_not_used() -> None:
    reply = REPLIES["additional"]
    asked = parse_query(query(WRITTEN, SRV))
    shorter = asked._replace(question=asked.question[5:])
    assert encode(shorter, encoded(asked, reply), 512) == encode(shorter, reply, 512)
