"""A pod's resolver configuration from its dnsPolicy and dnsConfig.

https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tiphys.api.core.v1 import Pod

MAX_NAMESERVERS: Final = 3
MAX_SEARCHES: Final = 32
MAX_SEARCH_CHARACTERS: Final = 2048
CLUSTER_OPTIONS: Final = ("ndots:5",)


@dataclass(frozen=True, slots=True)
class Resolver:
    """The three lines of a resolv.conf; `problems` are what had to be left out, worded for an event."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> Resolver:
    """What a resolv.conf says; the last `search` and the union of `options` count."""
    servers: list[str] = []
    searches: tuple[str, ...] = ()
    options: dict[str, None] = {}
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        match words[0]:
            case "nameserver" if len(words) > 1:
                servers.append(words[1])
            case "search":
                searches = tuple(word.rstrip(".") or "." for word in words[1:])
            case "options":
                options.update(dict.fromkeys(words[1:]))
    return Resolver(tuple(servers), searches, tuple(options))


def pod_resolver(pod: Pod, host: Resolver, cluster_dns: tuple[str, ...], cluster_domain: str) -> Resolver:
    """The resolver of `pod` on a node whose own is `host`."""
    policy = _effective_policy(pod)
    if policy == "None":
        base = Resolver()
    elif policy == "ClusterFirst" and cluster_dns:
        base = Resolver(cluster_dns, _searches(pod, cluster_domain, host), CLUSTER_OPTIONS)
    else:
        base = Resolver(host.servers, host.searches, host.options)
    return _within_limits(_with_dns_config(pod, base))


def missing_cluster_dns(pod: Pod, cluster_dns: tuple[str, ...]) -> bool:
    """Whether the pod asked for cluster DNS on a node that has none to give."""
    return _effective_policy(pod) == "ClusterFirst" and not cluster_dns


def _effective_policy(pod: Pod) -> str:
    match pod.spec.dns_policy or "ClusterFirst":
        case "ClusterFirstWithHostNet":
            return "ClusterFirst"
        case "ClusterFirst" if pod.spec.host_network:
            return "Default"
        case policy:
            return policy


def _searches(pod: Pod, domain: str, host: Resolver) -> tuple[str, ...]:
    if not domain:
        return host.searches
    own = (f"{pod.metadata.namespace}.svc.{domain}", f"svc.{domain}", domain)
    return tuple(dict.fromkeys((*own, *host.searches)))


def _with_dns_config(pod: Pod, base: Resolver) -> Resolver:
    extra = pod.spec.dns_config
    if extra is None:
        return base
    options = {name.partition(":")[0]: name for name in base.options}
    for option in extra.options:
        options[option.name] = f"{option.name}:{option.value}" if option.value else option.name
    return Resolver(
        tuple(dict.fromkeys((*base.servers, *extra.nameservers))),
        tuple(dict.fromkeys((*base.searches, *extra.searches))),
        tuple(options.values()),
    )


def _within_limits(made: Resolver) -> Resolver:
    problems = []
    servers, searches = made.servers, made.searches
    if len(servers) > MAX_NAMESERVERS:
        servers = servers[:MAX_NAMESERVERS]
        problems.append(
            "Nameserver limits were exceeded, some nameservers have been omitted, "
            f"the applied nameserver line is: {' '.join(servers)}"
        )
    kept = searches[:MAX_SEARCHES]
    while len(" ".join(kept)) > MAX_SEARCH_CHARACTERS:
        kept = kept[:-1]
    if kept != searches:
        problems.append(
            "Search Line limits were exceeded, some search paths have been omitted, "
            f"the applied search line is: {' '.join(kept)}"
        )
    return Resolver(servers, kept, made.options, tuple(problems))
