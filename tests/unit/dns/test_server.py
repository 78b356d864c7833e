"""The whole server on loopback sockets, with informers' caches filled by hand: questions in, records out."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import dnslib
import pytest

from tiphys.api.core.v1 import Namespace, ObjectReference, Pod, Service, ServicePort, ServiceSpec
from tiphys.api.discovery.v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.base.tasks import Supervised
from tiphys.client import SharedInformer
from tiphys.dns import CorefileError, DnsServer

COREFILE = """
.:0 {
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    FORWARD
    cache 30
    loadbalance
}
"""


class Caches:
    """What `Informers` gives, filled by hand."""

    def __init__(self) -> None:
        self.known: dict[type, SharedInformer[Any]] = {}

    def of(self, kind: type, **_: str) -> SharedInformer[Any]:
        if kind not in self.known:
            self.known[kind] = SharedInformer(kind.__name__)
        return self.known[kind]


def meta(name: str, namespace: str = "", labels: dict[str, str] | None = None, version: str = "1") -> ObjectMeta:
    return ObjectMeta(name=name, namespace=namespace, labels=labels or {}, resource_version=version, uid=name)


def service(name: str, ip: str = "None", namespace: str = "default", **spec: Any) -> Service:
    ports = spec.pop("ports", (ServicePort(name="http", port=80, protocol="TCP"),))
    return Service(
        metadata=meta(name, namespace), spec=ServiceSpec(cluster_ip=ip, cluster_ips=(ip,), ports=ports, **spec)
    )


def endpoint_slice(owner: str, *endpoints: Endpoint, port: str = "http", number: int = 8080) -> EndpointSlice:
    return EndpointSlice(
        metadata=meta(f"{owner}-x", "default", {"kubernetes.io/service-name": owner}),
        address_type="IPv4",
        endpoints=endpoints,
        ports=(EndpointPort(name=port, protocol="TCP", port=number),),
    )


def endpoint(ip: str, host: str | None = None, ready: bool = True) -> Endpoint:
    return Endpoint(
        addresses=(ip,),
        hostname=host,
        conditions=EndpointConditions(ready=ready),
        target_ref=ObjectReference(kind="Pod", name=f"pod-{ip.replace('.', '-')}"),
    )


WEB_PORTS = (ServicePort(name="http", port=80), ServicePort(name="dns", port=53, protocol="UDP"))


def fill(caches: Caches) -> None:
    services = [
        service(
            "web",
            "10.96.0.7",
            ports=(ServicePort(name="http", port=80), ServicePort(name="dns", port=53, protocol="UDP")),
        ),
        service("kube-dns", "10.96.0.10", namespace="kube-system"),
        service("db"),
        service("empty"),
        service("ext", "", type="ExternalName", external_name="www.example.org"),
        service("big"),
    ]
    caches.of(Service).replace(services, "1")
    slices = [
        endpoint_slice(
            "db", endpoint("10.244.1.5", "db-0"), endpoint("10.244.1.6", "db-1"), endpoint("10.244.1.7", "db-2", False)
        ),
        endpoint_slice("web", endpoint("10.244.1.9")),
        endpoint_slice("big", *(endpoint(f"10.245.0.{number}") for number in range(1, 201))),
    ]
    caches.of(EndpointSlice).replace(slices, "1")
    caches.of(Namespace).replace([Namespace(metadata=meta(name)) for name in ("default", "kube-system")], "1")
    caches.of(Pod).replace([], "1")


Ask = Callable[..., Any]


@asynccontextmanager
async def serving(corefile: str) -> AsyncIterator[tuple[DnsServer, Caches]]:
    caches = Caches()
    server = DnsServer(corefile, None, caches, hosts=["127.0.0.1"])  # type: ignore[arg-type]
    fill(caches)
    async with Supervised() as tasks:
        task = tasks.spawn(server.run, name="server")
        ready = asyncio.ensure_future(server.ready.wait())
        await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
        yield server, caches


async def exchange(server: DnsServer, data: bytes, tcp: bool = False) -> bytes:
    host, port = server.addresses[0]
    if tcp:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(struct.pack(">H", len(data)) + data)
        answer = await reader.readexactly(struct.unpack(">H", await reader.readexactly(2))[0])
        writer.close()
        return answer
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        channel.connect((host, port))
        await loop.sock_sendall(channel, data)
        return await asyncio.wait_for(loop.sock_recv(channel, 65535), 3)


async def ask(server: DnsServer, name: str, kind: str = "A", *, tcp: bool = False, edns: int = 0) -> dnslib.DNSRecord:
    query = dnslib.DNSRecord.question(name, kind)
    if edns:
        query.add_ar(dnslib.EDNS0(udp_len=edns))
    answer = dnslib.DNSRecord.parse(await exchange(server, query.pack(), tcp))
    assert answer.header.id == query.header.id
    assert str(answer.q.qname) == name
    return answer


def texts(records: list[dnslib.RR]) -> list[str]:
    return sorted(f"{dnslib.QTYPE[each.rtype]} {each.ttl} {each.rdata}" for each in records)


SVC = "default.svc.cluster.local."
SOA = ["SOA 30 ns.dns.cluster.local. hostmaster.cluster.local."]
FOUND = [
    pytest.param(f"web.{SVC}", "A", ["A 30 10.96.0.7"], id="cluster ip"),
    pytest.param(f"WeB.{SVC}", "A", ["A 30 10.96.0.7"], id="case of the question is kept"),
    pytest.param(f"db.{SVC}", "A", ["A 30 10.244.1.5", "A 30 10.244.1.6"], id="headless: ready endpoints"),
    pytest.param(f"db-1.db.{SVC}", "A", ["A 30 10.244.1.6"], id="pod hostname"),
    pytest.param(f"10-244-1-9.web.{SVC}", "A", ["A 30 10.244.1.9"], id="endpoint by its address"),
    pytest.param(f"_http._tcp.web.{SVC}", "SRV", [f"SRV 30 0 100 80 web.{SVC}"], id="srv of one port"),
    pytest.param(
        f"web.{SVC}", "SRV", [f"SRV 30 0 50 53 web.{SVC}", f"SRV 30 0 50 80 web.{SVC}"], id="srv of all ports"
    ),
    pytest.param(
        f"_http._tcp.db.{SVC}",
        "SRV",
        [f"SRV 30 0 50 8080 db-0.db.{SVC}", f"SRV 30 0 50 8080 db-1.db.{SVC}"],
        id="srv headless",
    ),
    pytest.param("10-244-9-1.default.pod.cluster.local.", "A", ["A 30 10.244.9.1"], id="pod, insecure"),
    pytest.param("7.0.96.10.in-addr.arpa.", "PTR", [f"PTR 30 web.{SVC}"], id="ptr of a service"),
    pytest.param("5.1.244.10.in-addr.arpa.", "PTR", [f"PTR 30 db-0.db.{SVC}"], id="ptr of an endpoint"),
    pytest.param("dns-version.cluster.local.", "TXT", ['TXT 30 "1.1.0"'], id="version"),
    pytest.param("cluster.local.", "NS", ["NS 30 ns.dns.cluster.local."], id="ns"),
    pytest.param("ns.dns.cluster.local.", "A", ["A 30 10.96.0.10"], id="address of the server"),
]


@pytest.mark.parametrize(("name", "kind", "expected"), FOUND)
async def test_found(name: str, kind: str, expected: list[str]) -> None:
    async with serving(COREFILE.replace("FORWARD", "")) as (server, _):
        for tcp in (False, True):
            answer = await ask(server, name, kind, tcp=tcp)
            assert (dnslib.RCODE[answer.header.rcode], texts(answer.rr)) == ("NOERROR", expected)
            assert answer.header.aa


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        pytest.param(f"nothere.{SVC}", "A", "NXDOMAIN", id="no such service"),
        pytest.param("web.nowhere.svc.cluster.local.", "A", "NXDOMAIN", id="no such namespace"),
        pytest.param(f"web.{SVC}", "AAAA", "NOERROR", id="no address of this family"),
        pytest.param(SVC, "A", "NOERROR", id="a namespace exists"),
        pytest.param("svc.cluster.local.", "A", "NOERROR", id="svc exists"),
        pytest.param("cluster.local.", "A", "NOERROR", id="the zone exists"),
        pytest.param(f"empty.{SVC}", "A", "NXDOMAIN", id="headless without endpoints"),
        pytest.param(f"_nope._tcp.web.{SVC}", "SRV", "NXDOMAIN", id="no such port"),
        pytest.param("x.y.z.cluster.local.", "A", "NXDOMAIN", id="nothing known"),
        pytest.param("a-b-c-d.default.pod.cluster.local.", "A", "NXDOMAIN", id="no address"),
    ],
)
async def test_denied_with_soa(name: str, kind: str, rcode: str) -> None:
    async with serving(COREFILE.replace("FORWARD", "")) as (server, _):
        answer = await ask(server, name, kind)
        assert (dnslib.RCODE[answer.header.rcode], answer.rr) == (rcode, [])
        assert [" ".join(text.split()[:4]) for text in texts(answer.auth)] == SOA


async def test_truncation_edns_and_tcp() -> None:
    async with serving(COREFILE.replace("FORWARD", "")) as (server, _):
        short = await ask(server, f"big.{SVC}")
        assert short.header.tc and len(short.pack()) <= 512
        larger = await ask(server, f"big.{SVC}", edns=1232)
        assert larger.header.tc and len(larger.rr) > len(short.rr)
        assert larger.ar[0].rtype == dnslib.QTYPE.OPT
        whole = await ask(server, f"big.{SVC}", tcp=True)
        assert not whole.header.tc and len(whole.rr) == 200


async def test_changes_are_seen() -> None:
    async with serving(COREFILE.replace("FORWARD", "").replace("cache 30", "")) as (server, caches):
        piece = EndpointSlice(
            metadata=meta("db-x", "default", {"kubernetes.io/service-name": "db"}, "2"),
            address_type="IPv4",
            endpoints=(endpoint("10.244.1.8", "db-0"),),
            ports=(EndpointPort(name="http", protocol="TCP", port=8080),),
        )
        caches.of(EndpointSlice).replace([piece], "2")
        assert texts((await ask(server, f"db.{SVC}")).rr) == ["A 30 10.244.1.8"]
        assert (await ask(server, "5.1.244.10.in-addr.arpa.", "PTR")).header.rcode == dnslib.RCODE.REFUSED
        caches.of(Service).replace([], "2")
        assert (await ask(server, f"web.{SVC}")).header.rcode == dnslib.RCODE.NXDOMAIN


UPSTREAM = """
example.org:0 {
    hosts {
        192.0.2.7 www.example.org
        192.0.2.8 www.example.org
        ttl 60
    }
}
"""


async def test_forward_cache_and_external_name() -> None:
    async with serving(UPSTREAM) as (upstream, _):
        port = upstream.addresses[0][1]
        async with serving(COREFILE.replace("FORWARD", f"forward . 127.0.0.1:{port}")) as (server, _caches):
            www = ["A 60 192.0.2.7", "A 60 192.0.2.8"]
            assert texts((await ask(server, "www.example.org.")).rr) == www
            assert texts((await ask(server, "www.example.org.", tcp=True)).rr) == www
            assert texts((await ask(server, "www.example.org.", edns=4096)).rr) == www
            external = await ask(server, f"ext.{SVC}")
            assert texts(external.rr) == [*www, "CNAME 30 www.example.org."]
            assert external.rr[0].rtype == dnslib.QTYPE.CNAME
            assert (await ask(server, "elsewhere.test.")).header.rcode == dnslib.RCODE.REFUSED
        async with serving(COREFILE.replace("FORWARD", f"forward . 127.0.0.1:{port}")) as (server, _caches):
            pass
    async with serving(COREFILE.replace("FORWARD", f"forward . 127.0.0.1:{port}")) as (server, _caches):
        assert (await ask(server, "www.example.org.")).header.rcode == dnslib.RCODE.SERVFAIL  # nobody is there


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"\x12\x34\x01\x00\x00\x01", None, id="half a header"),
        pytest.param(b"\x12\x34\x81\x00\x00\x01\x00\x00\x00\x00\x00\x00", None, id="an answer"),
        pytest.param(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05ab", 1, id="cut short"),
        pytest.param(
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01", 1, id="points at itself"
        ),
        pytest.param(b"\x12\x34\x28\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01", 4, id="update"),
        pytest.param(b"\x12\x34\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00", 1, id="no question"),
    ],
)
async def test_bad_messages(data: bytes, rcode: int | None) -> None:
    server = DnsServer(UPSTREAM)
    answer = await server.answer(data, "127.0.0.1", "udp", 0)
    assert (answer[3] & 0xF if answer else None) == rcode


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".:53 {\n    nosuch\n}\n", "Corefile:2 - Error during parsing: Unknown directive 'nosuch'"),
        (
            ".:53 {\n    forward . nowhere\n}\n",
            "Corefile:2 - Error during parsing: not an IP address or file: 'nowhere'",
        ),
        (".:53 {\n    cache {\n        odd\n    }\n}\n", "Corefile:3 - Error during parsing: unknown property 'odd'"),
        (".:53 {\n    errors\n", "Unexpected EOF"),
        (".:99999 {\n}\n", "has no valid port"),
    ],
)
def test_a_wrong_corefile_is_named(text: str, message: str) -> None:
    with pytest.raises(CorefileError) as caught:
        DnsServer(text)
    assert message in str(caught.value)
