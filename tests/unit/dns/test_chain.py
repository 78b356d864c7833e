"""Chains in which a plugin waits or fails, and what is asked twice, through the whole server."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import dnslib
import pytest

from tests.unit.dns.test_server import COREFILE, FOUND, SVC, ask, endpoint, endpoint_slice, exchange, serving, texts
from tiphys.api.core.v1 import Namespace, Service
from tiphys.api.discovery.v1 import EndpointSlice
from tiphys.dns.message import Reply
from tiphys.dns.plugin import Next, Request, in_task
from tiphys.dns.plugins.prometheus import DURATION, REQUESTS, RESPONSES
from tiphys.dns.table import PLUGINS

LOCAL = COREFILE.replace("FORWARD", "")
# The plugin under test stands where `hosts` does: behind the metrics and the cache, before kubernetes.
WITH_PLUGIN = LOCAL.replace("errors", "errors\n    hosts\n    prometheus 127.0.0.1:0")


@dataclass(slots=True)
class Behaves:
    """A plugin that does something, and passes the query on."""

    behaviour: Callable[[], Awaitable[None]]

    async def serve(self, request: Request, following: Next) -> Reply:
        await self.behaviour()
        return await following(request)


def stands_for_hosts(monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[], Awaitable[None]]) -> None:
    monkeypatch.setitem(PLUGINS, "hosts", lambda directive, setup: Behaves(behaviour))


async def fail() -> None:
    raise ValueError("broken")


async def wait_and_fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("broken")


async def wait() -> None:
    await asyncio.sleep(0)


async def wait_in_a_task() -> None:
    await in_task()
    async with asyncio.timeout(3):
        await asyncio.sleep(0)


async def in_task_without_asking() -> None:
    async with asyncio.timeout(3):  # a query begins without a task
        await asyncio.sleep(0)


def counted(rcode: str) -> tuple[float, float, int]:
    """Queries, answers with this code, and times measured, over UDP."""
    return (
        sum(each.value for values, each in REQUESTS.items() if values[3] == "udp"),
        sum(each.value for values, each in RESPONSES.items() if values[3] == rcode),
        sum(sum(each.counts) for _, each in DURATION.items()),
    )


@pytest.mark.parametrize(
    ("behaviour", "rcode"),
    [
        pytest.param(fail, "SERVFAIL", id="fails at once"),
        pytest.param(wait_and_fail, "SERVFAIL", id="fails after a wait"),
        pytest.param(wait, "NOERROR", id="waits"),
        pytest.param(wait_in_a_task, "NOERROR", id="waits with a timeout"),
        pytest.param(in_task_without_asking, "SERVFAIL", id="needs a task and does not say so"),
    ],
)
async def test_a_plugin_in_the_middle(
    monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[], Awaitable[None]], rcode: str
) -> None:
    stands_for_hosts(monkeypatch, behaviour)
    async with serving(WITH_PLUGIN) as (server, _):
        before = counted(rcode)
        answer = await ask(server, f"web.{SVC}")
        assert dnslib.RCODE[answer.header.rcode] == rcode
        assert texts(answer.rr) == (["A 30 10.96.0.7"] if rcode == "NOERROR" else [])
        # Counted once, however it was answered.
        assert [now - then for now, then in zip(counted(rcode), before, strict=True)] == [1, 1, 1]


async def test_one_that_waits_lets_others_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, waiting = asyncio.Event(), asyncio.Event()

    async def first_waits() -> None:
        if not waiting.is_set():
            waiting.set()
            await opened.wait()

    stands_for_hosts(monkeypatch, first_waits)
    async with serving(WITH_PLUGIN) as (server, _):
        first = asyncio.ensure_future(ask(server, f"web.{SVC}"))
        await waiting.wait()
        assert texts((await ask(server, "ns.dns.cluster.local.")).rr) == ["A 30 10.96.0.10"]
        assert not first.done()
        opened.set()
        assert texts((await first).rr) == ["A 30 10.96.0.7"]


async def test_tcp_is_answered_beside_many_datagrams() -> None:
    async with serving(LOCAL) as (server, _):
        many = [asyncio.ensure_future(ask(server, f"web.{SVC}")) for _ in range(150)]
        assert texts((await ask(server, f"web.{SVC}", tcp=True)).rr) == ["A 30 10.96.0.7"]
        assert {tuple(texts(each.rr)) for each in await asyncio.gather(*many)} == {("A 30 10.96.0.7",)}


@pytest.mark.parametrize("opt", [b"", b"\0" + struct.pack(">HHIH", 41, 1232, 0, 0)], ids=["plain", "EDNS"])
@pytest.mark.parametrize(
    "name", [*sorted({str(each.values[0]) for each in FOUND}), f"nothere.{SVC}", "x.cluster.local."]
)
async def test_asked_again_the_same_bytes(name: str, opt: bytes) -> None:
    async with serving(LOCAL.replace("loadbalance", "").replace("cache 30", "")) as (server, _):
        for kind in ("A", "AAAA", "SRV", "TXT", "PTR", "NS", "SOA", "ANY"):
            data = dnslib.DNSRecord.question(name, kind).pack() + opt
            data = data[:10] + struct.pack(">H", 1 if opt else 0) + data[12:]
            for tcp in (False, True):
                first = await exchange(server, data, tcp)
                assert await exchange(server, data, tcp) == first


NOTHING: tuple[Any, ...] = ()
CHANGES = [
    pytest.param(Service, [], f"web.{SVC}", ["A 30 10.96.0.7"], "NXDOMAIN", NOTHING, id="service gone"),
    pytest.param(Namespace, [], f"web.{SVC}", ["A 30 10.96.0.7"], "NXDOMAIN", NOTHING, id="namespace gone"),
    pytest.param(
        EndpointSlice,
        [endpoint_slice("empty", endpoint("10.244.2.1"))],
        f"empty.{SVC}",
        [],
        "NOERROR",
        ("A 30 10.244.2.1",),
        id="what was denied comes",
    ),
]


@pytest.mark.parametrize(("kind", "objects", "name", "before", "rcode", "after"), CHANGES)
async def test_what_was_kept_goes_with_a_change(
    kind: type, objects: list[Any], name: str, before: list[str], rcode: str, after: tuple[str, ...]
) -> None:
    async with serving(LOCAL.replace("cache 30", "")) as (server, caches):
        for _ in range(2):
            assert texts((await ask(server, name)).rr) == before
        caches.of(kind).replace(objects, "2")
        answer = await ask(server, name)
        assert (dnslib.RCODE[answer.header.rcode], tuple(texts(answer.rr))) == (rcode, after)


async def test_addresses_are_dealt_out_anew() -> None:
    async with serving(LOCAL.replace("cache 30", "")) as (server, _):
        orders = {tuple(str(each.rdata) for each in (await ask(server, f"db.{SVC}")).rr) for _ in range(60)}
        assert len(orders) == 2
