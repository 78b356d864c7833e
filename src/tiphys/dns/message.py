"""DNS messages as bytes: what a server has to read of a query and write of an answer. RFC 1035, 6891.

A query is read only as far as its question and EDNS options. Answers we make are encoded from
`Record`s; answers of others stay the bytes they are (`wire_facts` says where their TTLs and
addresses lie), so that forwarding and caching never take a message apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_pton
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

A, NS, CNAME, SOA, PTR, HINFO, MX, TXT, AAAA, SRV, OPT, ANY = 1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 41, 255
IN: Final = 1
TYPE_NAMES: Final = {
    A: "A", NS: "NS", CNAME: "CNAME", SOA: "SOA", PTR: "PTR", HINFO: "HINFO", MX: "MX", TXT: "TXT", AAAA: "AAAA",
    SRV: "SRV", OPT: "OPT", ANY: "ANY",
}  # fmt: skip
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
RCODE_NAMES: Final = {
    NOERROR: "NOERROR", FORMERR: "FORMERR", SERVFAIL: "SERVFAIL", NXDOMAIN: "NXDOMAIN", NOTIMP: "NOTIMP",
    REFUSED: "REFUSED", BADVERS: "BADVERS",
}  # fmt: skip

# Header flags.
QR, AUTHORITATIVE, TRUNCATED, RECURSION_DESIRED, RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
CHECKING_DISABLED: Final = 0x0010
MINIMUM_UDP: Final = 512
# What we say we take: large enough, and never in fragments on Ethernet (DNS flag day 2020).
OUR_UDP: Final = 1232
MAX_MESSAGE: Final = 65535
_DO: Final = 0x8000
_POINTER: Final = 0xC0
_QUESTION_AT: Final = b"\xc0\x0c"
# A pod asks the same names again and again, a search list multiplied by its look-ups.
NAMES_REMEMBERED: Final = 4096

_HEADER: Final = Struct(">6H")  # identifier, flags, questions, answers, authority, additional
_TYPE_CLASS: Final = Struct(">HH")
_RECORD: Final = Struct(">HHIH")  # type, class, TTL, length of the data
_SHORT: Final = Struct(">H")
_LONG: Final = Struct(">I")


class MessageError(ValueError):
    """The bytes are no DNS query that can be answered; `identifier` of it where it could be read."""

    def __init__(self, text: str, rcode: int = FORMERR, identifier: int | None = None) -> None:
        super().__init__(text)
        self.rcode = rcode
        self.identifier = identifier


class Query(NamedTuple):
    """A query: `name` in lower case and with its final dot, `question` its bytes as the client wrote them."""

    identifier: int
    flags: int
    name: str
    type: int
    question: bytes
    udp_size: int = MINIMUM_UDP
    has_edns: bool = False
    dnssec_ok: bool = False


class Record(NamedTuple):
    """A resource record; `data` as it goes on the wire, names in it uncompressed."""

    name: str
    type: int
    ttl: int  # seconds
    data: bytes


class Sections(NamedTuple):
    """The records of a reply on the wire; names in them may point at others, also at the question's."""

    question: int  # bytes of the question they follow
    answers: int
    authority: int
    additional: int
    data: bytes


class Reply(NamedTuple):
    """An answer: records, or `wire`: another server's message without its OPT record.

    One reply may be given to many queries. `encoded`: its records on the wire, by who gives it
    often; who changes the records takes it away.
    """

    rcode: int = NOERROR
    answers: Sequence[Record] = ()
    authority: Sequence[Record] = ()
    additional: Sequence[Record] = ()
    authoritative: bool = False
    wire: bytes = b""
    encoded: Sections | None = None


class WireFacts(NamedTuple):
    """What is known of a message of another server."""

    rcode: int
    truncated: bool
    answers: int
    ttl_offsets: tuple[int, ...]
    address_offsets: tuple[tuple[int, int], ...]  # of A and AAAA answers: where, how long
    minimum_ttl: int  # of all records; negative answers: of the SOA, as RFC 2308 wants
    without_opt: bytes
    has_soa: bool = False


def parse_query(data: bytes) -> Query:
    """Read a query. Raises MessageError."""
    if len(data) < 12:
        raise MessageError("message too short")
    identifier, flags, questions, answers, authority, additional = _HEADER.unpack_from(data)
    if flags & QR:
        raise MessageError("an answer, not a query")  # never answered: two servers would talk for ever
    if flags & 0x7800:
        raise MessageError("operation not implemented", NOTIMP, identifier)
    if questions != 1:
        raise MessageError("not one question", FORMERR, identifier)
    try:
        name, at = _question_name(data)
        kind, qclass = _TYPE_CLASS.unpack_from(data, at)
        question = data[12 : at + 4]
        at += 4
        udp_size, has_edns, dnssec_ok = MINIMUM_UDP, False, False
        for _ in range(answers + authority + additional):
            at = skip_name(data, at)
            record, size, extra, length = _RECORD.unpack_from(data, at)
            if record == OPT:
                if extra >> 16 & 0xFF:
                    raise MessageError("unknown EDNS version", BADVERS, identifier)
                udp_size, has_edns, dnssec_ok = max(size, MINIMUM_UDP), True, bool(extra & _DO)
            at += 10 + length
    except (StructError, IndexError):
        raise MessageError("message cut short", FORMERR, identifier) from None
    if qclass not in (IN, ANY):
        raise MessageError("class not served", REFUSED, identifier)
    return Query(identifier, flags, name, kind, question, udp_size, has_edns, dnssec_ok)


def _question_name(data: bytes) -> tuple[str, int]:
    """The name asked for, and where the bytes after it begin."""
    # Up to the first zero, which ends every name but those with a zero in a label.
    at = data.find(b"\0", 12) + 1
    try:
        return _whole_name(data[12:at]), at
    except IndexError:
        return read_name(data, 12)


@lru_cache(maxsize=NAMES_REMEMBERED)
def _whole_name(written: bytes) -> str:
    """A name from all its bytes. Raises IndexError when they are not one, or it goes on elsewhere."""
    name, end = read_name(written, 0)
    if end != len(written) or written[-2:-1] >= b"\xc0":  # that may be a pointer
        raise IndexError("not the whole name")
    return name


def read_name(data: bytes, at: int) -> tuple[str, int]:
    """A name in lower case with its final dot, and where the bytes after it begin."""
    labels: list[str] = []
    end = -1
    jumps = 0
    while True:
        length = data[at]
        if length >= _POINTER:
            if end < 0:
                end = at + 2
            at = (length & 0x3F) << 8 | data[at + 1]
            jumps += 1
            if jumps > 32:
                raise IndexError("a name that points at itself")
            continue
        if length & _POINTER:
            raise IndexError("unknown label type")
        if length == 0:
            break
        label = data[at + 1 : at + 1 + length].decode("latin-1").lower()
        labels.append(label.replace("\\", "\\\\").replace(".", "\\.") if "." in label or "\\" in label else label)
        at += 1 + length
    return ".".join(labels) + ".", end if end >= 0 else at + 1


def skip_name(data: bytes, at: int) -> int:
    """Where the bytes after a name begin."""
    while True:
        length = data[at]
        if length >= _POINTER:
            return at + 2
        if length == 0:
            return at + 1
        at += 1 + length


def name_bytes(name: str) -> bytes:
    """A name (with or without final dot) on the wire. Raises ValueError when it is no domain name."""
    labels = name.rstrip(".").split(".") if name.strip(".") else []
    parts = [label.encode("latin-1", "replace") for label in labels]
    if any(not 0 < len(part) < 64 for part in parts):
        raise ValueError(f"{name!r} is not a domain name")
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def address_record(name: str, address: str, ttl: int) -> Record:
    """An A or AAAA record, by the address. Raises OSError for what is none."""
    if ":" in address:
        return Record(name, AAAA, ttl, inet_pton(AF_INET6, address))
    return Record(name, A, ttl, inet_pton(AF_INET, address))


def srv_record(name: str, ttl: int, priority: int, weight: int, port: int, target: str) -> Record:
    return Record(name, SRV, ttl, Struct(">HHH").pack(priority, weight, port) + name_bytes(target))


def text_record(name: str, ttl: int, text: str) -> Record:
    return Record(name, TXT, ttl, bytes([len(text)]) + text.encode())


@lru_cache(maxsize=64)
def soa_record(zone: str, ttl: int, primary: str, mailbox: str, serial: int) -> Record:
    """A zone's SOA with CoreDNS' intervals; its minimum, how long a denial is kept, is the TTL."""
    numbers = Struct(">5I").pack(serial, 7200, 1800, 86400, ttl)
    return Record(zone, SOA, ttl, name_bytes(primary) + name_bytes(mailbox) + numbers)


def encode(query: Query, reply: Reply, limit: int) -> bytes:
    """The answer to a query in at most `limit` bytes; one that does not fit is cut and says so (TC)."""
    if reply.wire:
        return _encode_wire(query, reply.wire, limit)
    question = query.question
    opt = _opt(query, reply.rcode) if query.has_edns else b""
    flags = QR | RECURSION_AVAILABLE | (query.flags & (RECURSION_DESIRED | CHECKING_DISABLED)) | (reply.rcode & 0xF)
    if reply.authoritative:
        flags |= AUTHORITATIVE
    sections = reply.encoded
    size = len(question)
    if sections is None or sections.question != size or 12 + size + len(sections.data) + len(opt) > limit:
        sections, is_cut = _encode_sections(query.name, size, reply, limit - len(opt))
        if is_cut:
            flags |= TRUNCATED
    _, answers, authority, additional, data = sections
    header = _HEADER.pack(query.identifier, flags, 1, answers, authority, additional + 1 if opt else additional)
    return header + question + data + opt


def encoded(query: Query, reply: Reply) -> Reply:
    """The reply with its records encoded, to be given to every query for this name."""
    return reply._replace(encoded=_encode_sections(query.name, len(query.question), reply, MAX_MESSAGE)[0])


def _encode_sections(name: str, question: int, reply: Reply, limit: int) -> tuple[Sections, bool]:
    """The records as far as they fit behind a question of so many bytes; whether what is missing is missed."""
    parts: list[bytes] = []
    size = 12 + question
    counts = [0, 0, 0]
    known: dict[str, bytes] = {name: _QUESTION_AT}
    is_cut = False
    for section, records in enumerate((reply.answers, reply.authority, reply.additional)):
        for record in records:
            owner = known.get(record.name) or name_bytes(record.name)
            length = len(owner) + 10 + len(record.data)
            if size + length > limit:
                is_cut = section < 2  # what is missing from the additional section is no loss of truth
                break
            if record.name not in known and size < 0x3000:
                known[record.name] = _SHORT.pack(0xC000 | size)
            parts.append(owner + _RECORD.pack(record.type, IN, record.ttl, len(record.data)) + record.data)
            size += length
            counts[section] += 1
        if is_cut:
            break
    return Sections(question, counts[0], counts[1], counts[2], b"".join(parts)), is_cut


def _encode_wire(query: Query, wire: bytes, limit: int) -> bytes:
    opt = _opt(query, 0) if query.has_edns else b""
    _, flags, questions, answers, authority, additional = _HEADER.unpack_from(wire)
    start = 12 + len(query.question)
    if len(wire) + len(opt) > limit or questions != 1:
        header = _HEADER.pack(query.identifier, flags | TRUNCATED, 1, 0, 0, 1 if opt else 0)
        return header + query.question + opt
    header = _HEADER.pack(query.identifier, flags, 1, answers, authority, additional + (1 if opt else 0))
    # The question as this client wrote it: some check that the case of its letters comes back.
    return header + query.question + wire[start:] + opt


def _opt(query: Query, rcode: int) -> bytes:
    extra = (rcode >> 4) << 24 | (_DO if query.dnssec_ok else 0)
    return b"\0" + _RECORD.pack(OPT, OUR_UDP, extra, 0)


def error_reply(data: bytes, error: MessageError) -> bytes:
    """The answer to bytes that could not be read as a query."""
    flags = QR | (_SHORT.unpack_from(data, 2)[0] & (0x7800 | RECURSION_DESIRED)) | (error.rcode & 0xF)
    if error.rcode < 16:
        return _HEADER.pack(error.identifier or 0, flags, 0, 0, 0, 0)
    opt = b"\0" + _RECORD.pack(OPT, OUR_UDP, (error.rcode >> 4) << 24, 0)
    return _HEADER.pack(error.identifier or 0, flags, 0, 0, 0, 1) + opt


def query_bytes(identifier: int, question: bytes, *, dnssec_ok: bool = False, flags: int = RECURSION_DESIRED) -> bytes:
    """A query to another server, with EDNS."""
    opt = b"\0" + _RECORD.pack(OPT, OUR_UDP, _DO if dnssec_ok else 0, 0)
    return _HEADER.pack(identifier, flags, 1, 0, 0, 1) + question + opt


def wire_facts(data: bytes) -> WireFacts:
    """Read what has to be known of another server's answer. Raises MessageError when it is damaged."""
    try:
        _, flags, questions, answers, authority, additional = _HEADER.unpack_from(data)
        at = 12
        for _ in range(questions):
            at = skip_name(data, at) + 4
        ttl_offsets: list[int] = []
        addresses: list[tuple[int, int]] = []
        ttls: list[int] = []
        without_opt, has_soa = data, False
        for number in range(answers + authority + additional):
            start = at
            at = skip_name(data, at)
            kind, _, ttl, length = _RECORD.unpack_from(data, at)
            end = at + 10 + length
            if end > len(data):
                raise MessageError("message cut short")
            if kind == OPT:
                if end == len(data):  # last, as everyone puts it; elsewhere it stays
                    without_opt = data[:10] + _SHORT.pack(additional - 1) + data[12:start]
            else:
                ttl_offsets.append(at + 4)
                if kind == SOA and not answers:
                    has_soa = True
                    ttl = min(ttl, _LONG.unpack_from(data, end - 4)[0])
                ttls.append(ttl)
                if number < answers and kind in (A, AAAA):
                    addresses.append((at + 10, length))
            at = end
    except (StructError, IndexError):
        raise MessageError("message cut short") from None
    return WireFacts(
        flags & 0xF,
        bool(flags & TRUNCATED),
        answers,
        tuple(ttl_offsets),
        tuple(addresses),
        min(ttls, default=0),
        without_opt,
        has_soa,
    )


def answer_count(data: bytes) -> int:
    """The answers another server's message says it has."""
    count: int = _SHORT.unpack_from(data, 6)[0]
    return count


def wire_answers(data: bytes) -> list[Record]:
    """The A, AAAA and CNAME answers of another server's message, as records of their own."""
    _, _, questions, answers, _, _ = _HEADER.unpack_from(data)
    at = 12
    found: list[Record] = []
    try:
        for _ in range(questions):
            at = skip_name(data, at) + 4
        for _ in range(answers):
            name, at = read_name(data, at)
            kind, _, ttl, length = _RECORD.unpack_from(data, at)
            at += 10
            if kind in (A, AAAA):
                found.append(Record(name, kind, ttl, data[at : at + length]))
            elif kind == CNAME:
                found.append(Record(name, kind, ttl, name_bytes(read_name(data, at)[0])))
            at += length
    except (StructError, IndexError):
        return []
    return found
