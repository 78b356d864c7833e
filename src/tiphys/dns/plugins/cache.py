"""cache: keeps answers for as long as they may be kept. https://coredns.io/plugins/cache/

Positive answers up to an hour, denials up to half an hour, or the seconds given; TTLs count down.
Options served: success, denial, disable, servfail.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tiphys.base.clock import Clock
from tiphys.base.metrics import REGISTRY, CounterValue
from tiphys.dns.corefile import Directive, zone_name
from tiphys.dns.message import NOERROR, NXDOMAIN, SERVFAIL, SOA, Record, Reply, wire_facts
from tiphys.dns.plugin import Next, Plugin, Request, Setup, longest_zone
from tiphys.machinery.time import parse_duration

CAPACITY: Final = 9984
HITS: Final = REGISTRY.counter("coredns_cache_hits_total", "The count of cache hits.", ("server", "type"))
MISSES: Final = REGISTRY.counter("coredns_cache_misses_total", "The count of cache misses.", ("server",))

Key = tuple[str, int, bool]


class _Kept(NamedTuple):
    reply: Reply
    ttl_offsets: tuple[int, ...]
    at: float
    until: float


@dataclass(slots=True, kw_only=True)
class Store:
    """One of the two caches, for successes or for denials."""

    kind: str
    longest: int  # seconds
    shortest: int
    capacity: int = CAPACITY
    disabled: tuple[str, ...] = ()
    kept: dict[Key, _Kept] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cache:
    """Answers from what it kept, else keeps what comes back."""

    clock: Clock
    server: str
    zones: tuple[str, ...]
    success: Store
    denial: Store
    servfail: float  # seconds a failure is kept
    misses: CounterValue
    never: tuple[str, ...]  # zones of which neither store keeps anything

    async def serve(self, request: Request, following: Next) -> Reply:
        query = request.query
        if longest_zone(query.name, self.zones) is None:
            return await following(request)
        if longest_zone(query.name, self.never) is not None:
            self.misses.inc()
            return await following(request)
        key = (query.name, query.type, query.dnssec_ok)
        now = self.clock.monotonic()
        for store in (self.success, self.denial):
            kept = store.kept.get(key)
            if kept is not None and now < kept.until:
                HITS.labels(self.server, store.kind).inc()
                return _aged(kept, int(now - kept.at))
        self.misses.inc()
        reply = await following(request)
        self._keep(key, reply, now)
        return reply

    def _keep(self, key: Key, reply: Reply, now: float) -> None:
        facts = wire_facts(reply.wire) if reply.wire else None
        if facts is None:
            rcode, has_answers = reply.rcode, bool(reply.answers)
        else:
            rcode, has_answers = facts.rcode, facts.answers > 0
        store = self.success if rcode == NOERROR and has_answers else self.denial
        if longest_zone(key[0], store.disabled) is not None:
            return
        if facts is None:
            ttl, offsets = _minimum(reply), tuple[int, ...]()
        elif facts.truncated:
            return
        else:
            ttl = facts.minimum_ttl if facts.has_soa or (has_answers and rcode != NXDOMAIN) else 0
            offsets = facts.ttl_offsets
        if rcode == SERVFAIL:
            seconds = self.servfail
        elif rcode in (NOERROR, NXDOMAIN):
            seconds = min(max(ttl, store.shortest), store.longest)
        else:
            return
        if seconds <= 0:
            return
        self.success.kept.pop(key, None)
        self.denial.kept.pop(key, None)
        if len(store.kept) >= store.capacity:
            # The oldest goes; what is asked often comes back at once.
            del store.kept[next(iter(store.kept))]
        store.kept[key] = _Kept(reply, offsets, now, now + seconds)


def _minimum(reply: Reply) -> int:
    records: Sequence[Record] = (*reply.answers, *reply.authority)
    if not reply.answers and not any(each.type == SOA for each in reply.authority):
        return 0
    return min((each.ttl for each in records), default=0)


def _aged(kept: _Kept, seconds: int) -> Reply:
    """The answer with TTLs that have gone down."""
    reply = kept.reply
    if seconds <= 0:
        return reply
    if reply.wire:
        changed = bytearray(reply.wire)
        for at in kept.ttl_offsets:
            ttl = struct.unpack_from(">I", changed, at)[0]
            struct.pack_into(">I", changed, at, max(0, ttl - seconds))
        return reply._replace(wire=bytes(changed))

    def aged(records: Sequence[Record]) -> list[Record]:
        return [each._replace(ttl=max(0, each.ttl - seconds)) for each in records]

    return Reply(reply.rcode, aged(reply.answers), aged(reply.authority), aged(reply.additional), reply.authoritative)


def build(directive: Directive, setup: Setup) -> Plugin:
    """From `cache [TTL] [ZONES...] { … }`. Raises CorefileError."""
    arguments = list(directive.arguments)
    longest = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else 0
    zones = tuple(zone_name(each) for each in arguments) or setup.zones
    success = Store(kind="success", longest=longest or 3600, shortest=5 if not longest else min(5, longest))
    denial = Store(kind="denial", longest=longest or 1800, shortest=5 if not longest else min(5, longest))
    servfail = 5.0
    for line in directive.block:
        match line.name, line.arguments:
            case ("success" | "denial") as name, (size, *ttls) if all(each.isdigit() for each in (size, *ttls)):
                store = success if name == "success" else denial
                store.capacity = int(size)
                store.longest = int(ttls[0]) if ttls else store.longest
                store.shortest = int(ttls[1]) if len(ttls) > 1 else store.shortest
            case "disable", (("success" | "denial") as name, *names):
                store = success if name == "success" else denial
                store.disabled = tuple(zone_name(each) for each in names) or zones
            case "servfail", (duration,):
                servfail = parse_duration(duration).total_seconds()
            case name, _:
                raise line.error(f"unknown property '{name}'")
    never = tuple(zone for zone in success.disabled if longest_zone(zone, denial.disabled) is not None)
    server = f"dns://:{setup.port}"
    return Cache(setup.clock, server, zones, success, denial, servfail, MISSES.labels(server), never)
