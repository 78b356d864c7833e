"""One site out of everything: listeners of Ingresses and of Gateways, on the same ports where they meet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from tiphys.ingress.gateway.translate import Outcome
from tiphys.ingress.ingresses import Wanted
from tiphys.ingress.model import Certificate, Comparison, Host, Listener, PathType, Rewriting, Route, Site


def site_of(wanted: Wanted, outcome: Outcome, default: Certificate, ports: tuple[int, int]) -> Site:
    """`ports` are those of Ingresses, plain and TLS: they are always open. `default` is for TLS without a name."""
    plain, secure = ports
    hosts: dict[int, list[Host]] = {plain: list(wanted.plain), secure: list(wanted.tls)}
    certificates: dict[int, list[Certificate]] = {secure: list(wanted.certificates)}
    tls = {plain: False, secure: True}
    for number, port in outcome.ports.items():
        if tls.setdefault(number, port.tls) != port.tls:
            continue  # an Ingress's port with another protocol
        hosts.setdefault(number, []).extend(port.hosts())
        certificates.setdefault(number, []).extend(each for _, each in sorted(port.certificates.items()))
    return Site(
        tuple(
            Listener(
                number,
                tls=tls[number],
                hosts=_merged(hosts[number]),
                certificates=(default, *_distinct(certificates.get(number, ()))) if tls[number] else (),
                fallback=wanted.fallback if number in ports else None,
            )
            for number in sorted(hosts)
        )
    )


def _merged(hosts: Iterable[Host]) -> tuple[Host, ...]:
    """One host a name: what a Gateway and an Ingress say of the same comes together."""
    found: dict[tuple[str, bool], list[Route]] = defaultdict(list)
    for host in hosts:
        is_wildcard = host.name.startswith("*.")
        found[(host.name, host.deep and is_wildcard)] += host.routes
    return tuple(Host(name, tuple(routes), deep) for (name, deep), routes in sorted(found.items()))


def _distinct(certificates: Iterable[Certificate]) -> list[Certificate]:
    found: dict[str, Certificate] = {}
    for each in certificates:
        known = found.get(each.name)
        hosts = each.hosts if known is None else tuple(dict.fromkeys((*known.hosts, *each.hosts)))
        found[each.name] = replace(each, hosts=hosts)
    return list(found.values())


def without_expressions(site: Site) -> Site:
    """The site without what users wrote as expressions: when the proxy refuses a configuration they are suspected."""

    def harmless(route: Route) -> bool:
        fields = (*route.match.headers, *route.match.query)
        rewriting = route.action.path is not None and route.action.path.kind is Rewriting.CAPTURED
        return not (
            route.match.path_type is PathType.REGEX
            or rewriting
            or any(one.comparison is Comparison.REGEX for one in fields)
        )

    def cleaned(listener: Listener) -> Listener:
        hosts = tuple(replace(host, routes=tuple(filter(harmless, host.routes))) for host in listener.hosts)
        return replace(listener, hosts=hosts)

    return Site(tuple(cleaned(listener) for listener in site.listeners))
