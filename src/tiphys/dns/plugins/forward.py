"""forward: asks other servers. https://coredns.io/plugins/forward/

Upstreams are addresses, or files in the form of resolv.conf. Each is tried at most once a query,
those that failed lately last; a query waits two seconds for one and five in all. Every UDP
query has a socket, and so a port, and an identifier of its own: nobody can guess an answer.
Options served: except, force_tcp, prefer_udp, expire, max_fails, health_check, policy, max_concurrent.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY
from tiphys.dns.corefile import Directive, zone_name
from tiphys.dns.message import REFUSED, MessageError, Reply, query_bytes, wire_facts
from tiphys.dns.plugin import Next, Plugin, Request, Setup, in_task, in_zone

log = get_logger(__name__)

TRY_TIMEOUT: Final = 2.0  # seconds
TOTAL_TIMEOUT: Final = 5.0
DOWN_FOR: Final = 0.5  # seconds an upstream that failed max_fails times is asked last
PASSED_OVER: Final = ("expire", "health_check", "prefer_udp", "next")

REQUESTS: Final = REGISTRY.counter("coredns_forward_requests_total", "Counter of requests made per upstream.", ("to",))
TIMEOUTS: Final = REGISTRY.counter(
    "coredns_forward_max_concurrent_rejects_total",
    "Counter of the number of queries rejected because the concurrent queries were at maximum.",
)


class ForwardError(Exception):
    """No upstream answered."""


@dataclass(slots=True)
class Upstream:
    """Another server and how it has done lately."""

    host: str
    port: int
    failures: int = 0
    down_until: float = 0.0

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(slots=True)
class Forward:
    """See the module."""

    clock: Clock
    zone: str
    upstreams: list[Upstream]
    excluded: tuple[str, ...] = ()
    force_tcp: bool = False
    policy: str = "random"
    max_fails: int = 2
    max_concurrent: int = 0  # 0: no limit
    random: random.Random = field(default_factory=random.Random)
    _waiting: int = 0
    _turn: int = 0

    async def serve(self, request: Request, following: Next) -> Reply:
        """Raises ForwardError when no upstream answers in time."""
        name = request.name
        if not in_zone(name, self.zone) or any(in_zone(name, each) for each in self.excluded):
            return await following(request)
        if self.max_concurrent and self._waiting >= self.max_concurrent:
            TIMEOUTS.labels().inc()
            return Reply(REFUSED)
        self._waiting += 1
        try:
            await in_task()
            return await self._ask(request)
        finally:
            self._waiting -= 1

    async def _ask(self, request: Request) -> Reply:
        deadline = self.clock.monotonic() + TOTAL_TIMEOUT
        problem = "no upstream is configured"
        for upstream in self._in_order():
            left = deadline - self.clock.monotonic()
            if left <= 0:
                break
            REQUESTS.labels(str(upstream)).inc()
            try:
                data = await self._exchange(upstream, request, min(left, TRY_TIMEOUT))
                facts = wire_facts(data)
            except TimeoutError:
                problem = f"{upstream}: i/o timeout"
            except (OSError, MessageError, asyncio.IncompleteReadError) as error:
                problem = f"{upstream}: {error}"
            else:
                upstream.failures = 0
                return Reply(facts.rcode, wire=facts.without_opt)
            upstream.failures += 1
            if self.max_fails and upstream.failures >= self.max_fails:
                upstream.down_until = self.clock.monotonic() + DOWN_FOR
        raise ForwardError(problem)

    def _in_order(self) -> Sequence[Upstream]:
        order = list(self.upstreams)
        if self.policy == "random":
            self.random.shuffle(order)
        elif self.policy == "round_robin" and order:
            self._turn = (self._turn + 1) % len(order)
            order = order[self._turn :] + order[: self._turn]
        now = self.clock.monotonic()
        return sorted(order, key=lambda upstream: now < upstream.down_until)

    async def _exchange(self, upstream: Upstream, request: Request, timeout: float) -> bytes:
        identifier = secrets.randbelow(0x10000)
        query = request.query
        data = query_bytes(identifier, query.question, dnssec_ok=query.dnssec_ok, flags=query.flags & 0x0130)
        async with asyncio.timeout(timeout):
            if self.force_tcp or request.transport == "tcp":
                answer = await _by_tcp(upstream, data)
            else:
                answer = await _by_udp(upstream, data, query.question)
        if len(answer) < 12 or answer[:2] != data[:2]:
            raise MessageError("answer to another query")
        return answer


class _Exchange(asyncio.DatagramProtocol):
    """One query by UDP: the first answer with the right identifier and question counts."""

    def __init__(self, data: bytes, question: bytes) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._data = data
        self._question = question.lower()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The event loops' own classes do not all derive from the abstract one.
        cast(asyncio.DatagramTransport, transport).sendto(self._data)

    def datagram_received(self, data: bytes, addr: object) -> None:
        matches = data[:2] == self._data[:2] and data[12 : 12 + len(self._question)].lower() == self._question
        if matches and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _by_udp(upstream: Upstream, data: bytes, question: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, exchange = await loop.create_datagram_endpoint(
        lambda: _Exchange(data, question), remote_addr=(upstream.host, upstream.port)
    )
    try:
        return await exchange.answer
    finally:
        transport.close()


async def _by_tcp(upstream: Upstream, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
    try:
        writer.write(struct.pack(">H", len(data)) + data)
        length = struct.unpack(">H", await reader.readexactly(2))[0]
        return await reader.readexactly(length)
    finally:
        writer.close()


def upstreams_of(text: str) -> list[Upstream]:
    """The servers an argument names. Raises ValueError."""
    text = text.removeprefix("dns://")
    if text.startswith("/"):
        try:
            lines = Path(text).read_text().splitlines()
        except OSError as error:
            raise ValueError(f"{text}: {error.strerror}") from None
        words = [line.split() for line in lines]
        # A scope ("fe80::1%eth0") means nothing in another network namespace.
        servers = [each[1] for each in words if len(each) > 1 and each[0] == "nameserver"]
        return [Upstream(each, 53) for each in servers if "%" not in each]
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        return [Upstream(str(ipaddress.ip_address(host)), int(port))]
    except ValueError:
        raise ValueError(f"not an IP address or file: {text!r}") from None


def build(directive: Directive, setup: Setup) -> Plugin:
    """From `forward FROM TO... { … }`. Raises CorefileError."""
    if len(directive.arguments) < 2:
        raise directive.error("wrong argument count or unexpected line ending after 'forward'")
    upstreams: list[Upstream] = []
    for each in directive.arguments[1:]:
        try:
            upstreams.extend(upstreams_of(each))
        except ValueError as error:
            raise directive.error(str(error)) from None
    made = Forward(setup.clock, zone_name(directive.arguments[0]), upstreams)
    if not upstreams:
        log.warning("forward %s: no upstream servers; queries outside the cluster will fail", directive.arguments[0])
    for line in directive.block:
        match line.name, line.arguments:
            case "except", names if names:
                made.excluded = tuple(zone_name(name) for name in names)
            case "force_tcp", ():
                made.force_tcp = True
            case "policy", (("random" | "round_robin" | "sequential") as policy,):
                made.policy = policy
            case "max_fails", (value,) if value.isdigit():
                made.max_fails = int(value)
            case "max_concurrent", (value,) if value.isdigit():
                made.max_concurrent = int(value)
            case name, _ if name in PASSED_OVER:
                pass  # nothing here depends on it: connections are not kept, upstreams not probed
            case name, _:
                raise line.error(f"unknown property '{name}'")
    return made
