"""kubernetes: the cluster's own names. https://coredns.io/plugins/kubernetes/

Options served: pods, ttl, fallthrough, namespaces, endpoint_pod_names, noendpoints. The zones
that are reverse zones answer PTR for every address the cluster knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tiphys.api.core.v1 import Namespace, Pod, Service
from tiphys.api.discovery.v1 import EndpointSlice
from tiphys.client import Informers
from tiphys.dns.corefile import Directive, zone_name
from tiphys.dns.kubernetes import zone as answers
from tiphys.dns.kubernetes.data import ClusterData
from tiphys.dns.kubernetes.kept import KeptReplies
from tiphys.dns.kubernetes.zone import Options
from tiphys.dns.message import NOERROR, NXDOMAIN, SERVFAIL, SOA, Query, Record, Reply, name_bytes, wire_answers
from tiphys.dns.plugin import Next, Plugin, Request, Setup, in_zone, longest_zone

MAX_TTL: Final = 3600


@dataclass(slots=True)
class Kubernetes:
    """See the module. `zones` are all its zones, `primary` the one that names end in."""

    data: ClusterData
    options: Options
    zones: tuple[str, ...]
    primary: str
    fallthrough: tuple[str, ...]
    setup: Setup
    kept: KeptReplies

    async def serve(self, request: Request, following: Next) -> Reply:
        """Answer in our zones; not found falls through to the next plugin where so configured."""
        query = request.query
        kept = self.kept.get(query)
        if kept is not None:
            return kept
        zone = longest_zone(query.name, self.zones)
        if zone is None:
            return await following(request)
        found = self._find(zone, query)
        if found.rcode == NXDOMAIN and any(in_zone(query.name, each) for each in self.fallthrough):
            return await following(request)
        if found.chase:
            found.answers += await self._chase(request, found.chase)
        if found.answers:
            reply = Reply(found.rcode, found.answers, (), found.additional, authoritative=True)
        else:
            reply = Reply(found.rcode, authority=(answers.soa(self.data, self.options, zone),), authoritative=True)
        # The addresses of another's name are not of our data, nor are those of `pods verified`.
        if found.chase or self.options.pods == "verified":
            return reply
        return self.kept.put(query, reply)

    def _find(self, zone: str, query: Query) -> answers.Found:
        if not zone.endswith("arpa."):
            return answers.lookup(self.data, self.options, zone, query.name, query.type)
        if query.name == zone and query.type == SOA:
            return answers.Found(NOERROR, [answers.soa(self.data, self.options, zone)])
        return answers.reverse(self.data, self.options, self.primary, query.name, query.type)

    async def _chase(self, request: Request, target: str) -> list[Record]:
        """The addresses of a CNAME's target, asked of this server as a client would; none when that fails."""
        if self.setup.resolve is None:
            return []
        question = name_bytes(target) + request.query.question[-4:]
        query = Query(0, request.query.flags, target, request.type, question)
        reply = await self.setup.resolve(request._replace(query=query))
        if reply.rcode == SERVFAIL:
            return []
        return wire_answers(reply.wire) if reply.wire else list(reply.answers)


def build(directive: Directive, setup: Setup) -> Plugin:
    """From `kubernetes [ZONES...] { … }`. Raises CorefileError."""
    if setup.informers is None:
        raise directive.error("kubernetes: no connection to an API server is configured")
    zones = tuple(zone_name(each) for each in directive.arguments) or setup.zones
    primary = next((zone for zone in zones if not zone.endswith("arpa.")), "")
    if not primary:
        raise directive.error("non-reverse zone name must be used")
    options = Options()
    fallthrough: tuple[str, ...] = ()
    for line in directive.block:
        match line.name, line.arguments:
            case "ttl", (value,) if value.isdigit() and int(value) <= MAX_TTL:
                options = replace(options, ttl=int(value))
            case "ttl", (value,) if value.isdigit():
                raise line.error(f"ttl must be in range [0, {MAX_TTL}]: {value}")
            case "pods", (("disabled" | "insecure" | "verified") as mode,):
                options = replace(options, pods=mode)
            case "fallthrough", arguments:
                fallthrough = tuple(zone_name(each) for each in arguments) or zones
            case "namespaces", arguments if arguments:
                options = replace(options, namespaces=frozenset(arguments))
            case "endpoint_pod_names", ():
                options = replace(options, pod_names=True)
            case "noendpoints", ():
                options = replace(options, no_endpoints=True)
            case name, _:
                raise line.error(f"unknown property '{name}'")
    # A reloaded configuration goes on with what the old one knew.
    followed = setup.shared.get("kubernetes")
    if not isinstance(followed, _Followed):
        followed = setup.shared["kubernetes"] = _Followed(setup.informers)
    if options.pods == "verified":
        followed.follow_pods()
    options = replace(options, pod_ips=followed.pod_ips)
    setup.ready.append(("kubernetes", followed.has_synced))
    return Kubernetes(followed.data, options, zones, primary, fallthrough, setup, KeptReplies(followed.data))


class _Followed:
    """The caches this process keeps, once, however many configurations use them."""

    def __init__(self, informers: Informers) -> None:
        self.data = data = ClusterData()
        self.pod_ips: dict[str, set[str]] = {}
        self._informers = informers
        services, slices, namespaces = informers.of(Service), informers.of(EndpointSlice), informers.of(Namespace)
        services.add_handler(data.put_service, lambda _, new: data.put_service(new), data.drop_service)
        slices.add_handler(data.put_slice, data.update_slice, data.drop_slice)
        namespaces.add_handler(data.put_namespace, lambda _, new: data.put_namespace(new), data.drop_namespace)
        self._synced: list[Callable[[], bool]] = [
            lambda: services.has_synced,
            lambda: slices.has_synced,
            lambda: namespaces.has_synced,
        ]
        self._follows_pods = False

    def follow_pods(self) -> None:
        """Keep the pods' addresses too, for `pods verified`."""
        if self._follows_pods:
            return
        self._follows_pods = True
        pods = self._informers.of(Pod)
        pods.add_handler(self._put_pod, self._update_pod, self._drop_pod)
        self._synced.append(lambda: pods.has_synced)

    def has_synced(self) -> bool:
        return all(each() for each in self._synced)

    def _put_pod(self, pod: Pod) -> None:
        if pod.status.phase not in ("Succeeded", "Failed"):
            held = self.pod_ips.setdefault(pod.metadata.namespace, set())
            held.update(each.ip for each in pod.status.pod_ips)

    def _update_pod(self, old: Pod, new: Pod) -> None:
        self._drop_pod(old)
        self._put_pod(new)

    def _drop_pod(self, pod: Pod) -> None:
        self.pod_ips.get(pod.metadata.namespace, set()).difference_update(each.ip for each in pod.status.pod_ips)
