"""kube-proxy of one node: Services and EndpointSlices in, packet rules out.

The story of a change: an informer's handler marks the Service (`tracker`); after a moment that
gathers what comes together, each marked Service is read again (`services`), its endpoints are
chosen for this node (`topology`), the rules it should have replace those it had (`nftables`,
`iptables` or `ipvs`, see `rules`), in one transaction; then old UDP translations and clients' affinity to
what is gone are forgotten and the health-check ports are told. At start everything is marked, and
what an earlier run left goes over into what there should be without a gap. When the proxy stops or
dies its rules stay and packets flow.
https://kubernetes.io/docs/reference/networking/virtual-ips/
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tiphys.api.core.v1 import Node, Service
from tiphys.api.discovery.v1 import EndpointSlice
from tiphys.api.networking.v1 import ServiceCIDR
from tiphys.base import answers
from tiphys.base.clock import Clock, SystemClock
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY
from tiphys.base.nft import AsyncNft, NftError
from tiphys.base.tasks import Supervised
from tiphys.client import Client, Informers
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.time import format_time
from tiphys.proxy import conntrack, conntrack_settings, healthcheck
from tiphys.proxy.config import ProxyConfig, check_mode
from tiphys.proxy.model import Choice, Place, PortKey, ServiceKey, ServicePort
from tiphys.proxy.rules import RuleWriter
from tiphys.proxy.services import endpoints_of, service_networks, service_ports
from tiphys.proxy.topology import choose
from tiphys.proxy.tracker import Tracker
from tiphys.proxy.writers import writers

log = get_logger(__name__)

ZONE_LABEL: Final = "topology.kubernetes.io/zone"
RETRY: Final = 1.0  # seconds after a refused transaction
# Seconds without a change after which is swept: a rollout passes through the same rules again and again.
IDLE: Final = 2.0
# A proxy that has changes it could not write for this long says so on /healthz.
UNHEALTHY_AFTER: Final = 60.0

SYNC_DURATION: Final = REGISTRY.histogram(
    "kubeproxy_sync_proxy_rules_duration_seconds",
    "SyncProxyRules latency in seconds",
    buckets=tuple(0.001 * 2**power for power in range(15)),
)
LAST_SYNC: Final = REGISTRY.gauge(
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced"
)
SYNC_FAILURES: Final = REGISTRY.counter(
    "kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "Cumulative proxy nftables sync failures"
)

Fronts = dict[tuple[str, int], frozenset[tuple[str, int]]]


@dataclass(slots=True)
class _Family:
    """One address family's rules and what is in them."""

    version: int
    applier: RuleWriter
    others: tuple[RuleWriter, ...]  # the same family's in the other modes: their rules go when ours are in force
    ports: dict[ServiceKey, dict[PortKey, ServicePort]] = field(default_factory=dict)
    choices: dict[PortKey, Choice] = field(default_factory=dict)


@dataclass(slots=True)
class _Change:
    """What a turn has to forget once its rules are in force."""

    udp: Fronts = field(default_factory=dict)
    udp_node_ports: Fronts = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # endpoints of Services with affinity, "ip . port"


class Proxy:
    """See the module. `ready` is set when the first rules are in force.

    Raises config.ConfigError for a mode that is not there. Runs in the node's network namespace.
    """

    def __init__(
        self,
        client: Client,
        informers: Informers,
        node_name: str,
        mode: str = "",
        config: ProxyConfig | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._mode = check_mode(mode)
        self._config = config or ProxyConfig()
        self._clock = clock or SystemClock()
        self._node_name = node_name
        self._services = informers.of(Service)
        self._slices = informers.of(EndpointSlice)
        self._cidrs = informers.of(ServiceCIDR)
        self._nodes = informers.of(Node, field_selector=f"metadata.name={node_name}")
        self._changed = asyncio.Event()
        self._tracker = Tracker(self._changed.set)
        self._place = Place(node_name)
        self._node_ips: tuple[str, ...] = ()
        self._waiting_since: float | None = None
        self._families: list[_Family] = []
        self._forget = _Change()  # what no turn has got round to forgetting yet
        # A turn and a repair both compare what is wanted with the kernel: one at a time.
        self._one = asyncio.Lock()
        cidrs = [cidr for cidr in self._config.cluster_cidr.split(",") if cidr]
        self._cluster_cidrs = {ipaddress.ip_network(cidr).version: cidr for cidr in cidrs} or {4: ""}
        self._health = healthcheck.ServiceHealth(self._everywhere("0.0.0.0"), self._is_healthy)
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Keep the rules until cancelled; they stay in force afterwards. `informers.run()` is the caller's business."""
        nft = AsyncNft()
        try:
            await self._start(nft)
            async with Supervised(self._clock) as tasks:
                tasks.spawn(self._serve, name="proxy http", restart=True)
                tasks.spawn(self._watch_rules, name="proxy rules")
                await self._follow()
        finally:
            self._health.close()
            nft.close()

    # --- following -------------------------------------------------------------------------

    async def _start(self, nft: AsyncNft) -> None:
        tracker = self._tracker
        self._services.add_handler(tracker.put_service, lambda _, new: tracker.put_service(new), tracker.drop_service)
        self._slices.add_handler(tracker.put_slice, tracker.update_slice, tracker.drop_slice)
        self._cidrs.add_handler(self._see_cidr, lambda _, new: self._see_cidr(new), self._see_cidr)
        self._nodes.add_handler(self._see_node, lambda _, new: self._see_node(new), None)
        await asyncio.to_thread(conntrack_settings.write, self._config.conntrack)
        for informer in (self._services, self._slices, self._cidrs, self._nodes):
            await informer.synced()
        for version, own in sorted(self._cluster_cidrs.items()):
            by_mode = writers(nft, "ip" if version == 4 else "ip6", own, self._config)
            applier = by_mode.pop(self._mode)
            if await applier.start():
                log.info("rules of an earlier run are kept (%s, IPv%d)", self._mode, version)
            self._families.append(_Family(version, applier, others=tuple(by_mode.values())))
        tracker.mark_all()

    async def _follow(self) -> None:
        while True:
            await self._next_change()
            await self._clock.sleep(self._config.min_sync_period if self.ready.is_set() else 0)
            self._changed.clear()
            started = time.perf_counter()
            try:
                async with self._one:
                    await self._sync(self._tracker.take())
            except NftError as error:
                SYNC_FAILURES.labels().inc()
                log.error("the rules could not be written: %s", error)
                if self._waiting_since is None:
                    self._waiting_since = self._clock.monotonic()
                await self._clock.sleep(RETRY)
                self._tracker.mark_all()
                continue
            self._waiting_since = None
            if not self.ready.is_set():
                await self._clean_other_modes()
            self.ready.set()
            SYNC_DURATION.labels().observe(time.perf_counter() - started)
            LAST_SYNC.labels().set(self._clock.now().timestamp())

    async def _next_change(self) -> None:
        """Return when there is a change; a pause before it is used to sweep."""
        try:
            async with asyncio.timeout(IDLE):
                await self._changed.wait()
                return
        except TimeoutError:
            pass
        try:
            async with self._one:
                for family in self._families:
                    await family.applier.sweep()
        except NftError as error:
            log.warning("unused rules could not be removed: %s", error)
        await self._changed.wait()

    async def _clean_other_modes(self) -> None:
        """Rules of a run in another mode would catch packets that are ours."""
        for writer in (each for family in self._families for each in family.others):
            try:
                await writer.clean_up()
            except NftError as error:
                log.debug("another mode's rules: %s", error)  # most often its program is not there

    async def _sync(self, marked: Iterable[ServiceKey]) -> None:
        change = self._forget
        keys = list(marked)
        for family in self._families:
            family.applier.desired.set_node_ips(self._node_port_ips(family.version))
            family.applier.desired.set_service_cidrs(
                service_networks(
                    (cidr for each in self._cidrs.lister.list() for cidr in each.spec.cidrs), family.version
                )
            )
            for key in keys:
                self._update(family, key, change)
            await family.applier.apply()
            if change.gone:
                await family.applier.forget_clients(change.gone)
        if change.udp or change.udp_node_ports:
            families = [socket.AF_INET if each.version == 4 else socket.AF_INET6 for each in self._families]
            removed = await asyncio.to_thread(conntrack.clean_up, change.udp, change.udp_node_ports, families)
            if removed:
                log.info("forgot %d UDP connections to endpoints that are gone", removed)
        self._forget = _Change()
        await self._sync_health()

    def _update(self, family: _Family, key: ServiceKey, change: _Change) -> None:
        service = self._tracker.services.get(key)
        ports = {} if service is None else {each.key: each for each in service_ports(service, family.version)}
        before = family.ports.pop(key, {})
        if ports:
            family.ports[key] = ports
        slices = self._tracker.slices(key)
        for port_key in before.keys() - ports.keys():
            family.applier.desired.remove_service(port_key)
            self._note(change, before[port_key], family.choices.pop(port_key), Choice())
        for port_key, port in ports.items():
            choice = choose(port, endpoints_of(slices, port_key, self._node_name, family.version), self._place)
            old = family.choices.get(port_key)
            if old == choice and before.get(port_key) == port:
                continue
            family.applier.desired.set_service(port, choice)
            family.choices[port_key] = choice
            if port_key in before and before[port_key] != port:
                self._note(change, before[port_key], old or Choice(), Choice())
            self._note(change, port, old or Choice(), choice)

    @staticmethod
    def _note(change: _Change, port: ServicePort, old: Choice, new: Choice) -> None:
        """Remember what this change makes stale."""
        backends = frozenset((each.ip, each.port) for each in (*new.cluster, *new.local))
        if port.affinity_seconds:
            lost = {(each.ip, each.port) for each in (*old.cluster, *old.local)} - backends
            change.gone.update(f"{ip} . {number}" for ip, number in lost)
        if port.protocol == "udp":
            for address in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips):
                change.udp[(address, port.port)] = backends
            if port.node_port:
                version = ipaddress.ip_address(port.cluster_ip).version
                change.udp_node_ports[(conntrack.ANY[version], port.node_port)] = backends

    def _everywhere(self, host: str) -> str:
        """Every address of IPv4, in a cluster with IPv6 of both; another address is that one."""
        return "" if host == "0.0.0.0" and 6 in self._cluster_cidrs else host

    # --- the node --------------------------------------------------------------------------

    def _see_node(self, node: Node) -> None:
        place = Place(self._node_name, node.metadata.labels.get(ZONE_LABEL, ""))
        addresses = tuple(each.address for each in node.status.addresses if each.type == "InternalIP")
        if place != self._place or addresses != self._node_ips:
            self._place, self._node_ips = place, addresses
            self._tracker.mark_all()

    def _see_cidr(self, cidr: ServiceCIDR) -> None:
        self._changed.set()

    def _node_port_ips(self, version: int) -> tuple[str, ...]:
        """The node's addresses on which node ports answer: its own, of nodePortAddresses where given."""
        own = [ip for ip in self._node_ips if ipaddress.ip_address(ip).version == version]
        wanted = self._config.node_port_addresses
        if not wanted or wanted == ("primary",):
            return tuple(own)
        networks = [ipaddress.ip_network(cidr) for cidr in wanted]
        return tuple(ip for ip in own if any(ipaddress.ip_address(ip) in network for network in networks))

    # --- rules and health ------------------------------------------------------------------

    async def _watch_rules(self) -> None:
        """Repair what somebody else changed. A refusal is the next turn's business."""
        while True:
            await self._clock.sleep(self._config.sync_period)
            try:
                async with self._one:
                    for family in self._families if self.ready.is_set() else ():
                        await family.applier.verify()
            except NftError as error:
                log.error("the rules could not be verified: %s", error)

    async def _sync_health(self) -> None:
        ports: dict[ServiceKey, int] = {}
        counts: dict[ServiceKey, int] = {}
        for family in self._families:
            for key, service in family.ports.items():
                for port in service.values():
                    if port.external_local and port.health_check_node_port:
                        ports[key] = port.health_check_node_port
                        # Endpoints that drain serve who is connected; a balancer must send nobody new (KEP-1669).
                        ready = {each.ip for each in family.choices[port.key].local if each.ready}
                        counts[key] = max(counts.get(key, 0), len(ready))
        await self._health.sync(ports, counts)

    def _is_healthy(self) -> bool:
        since = self._waiting_since
        return self.ready.is_set() and (since is None or self._clock.monotonic() - since < UNHEALTHY_AFTER)

    def _is_node_eligible(self) -> bool:
        node = self._nodes.lister.get(ObjectName("", self._node_name))
        return node is not None and node.metadata.deletion_timestamp is None

    async def _serve(self) -> None:
        """Answer on the health and metrics addresses until cancelled."""
        servers = []
        try:
            for address, answer in (
                (self._config.healthz_bind_address, self._answer_health),
                (self._config.metrics_bind_address, self._answer_metrics),
            ):
                if address:
                    host, _, port = address.rpartition(":")
                    host = self._everywhere(host.strip("[]"))
                    servers.append(await answers.serve(host, int(port), answer))
            await asyncio.Event().wait()
        finally:
            for server in servers:
                server.close()

    def _answer_health(self, path: str) -> tuple[int, str, bytes] | None:
        if path not in ("/healthz", "/livez"):
            return None
        eligible = self._is_node_eligible()
        now = format_time(self._clock.now())
        body = {"lastUpdated": now, "currentTime": now, "nodeEligible": eligible}
        healthy = self._is_healthy() and (eligible or path == "/livez")
        return 200 if healthy else 503, answers.JSON, json.dumps(body).encode()

    def _answer_metrics(self, path: str) -> tuple[int, str, bytes] | None:
        if path == "/proxyMode":
            return 200, answers.TEXT, self._mode.encode()
        if path == "/metrics":
            return 200, answers.METRICS, REGISTRY.expose()
        if path == "/healthz":
            return 200, answers.TEXT, b"ok"
        return None
