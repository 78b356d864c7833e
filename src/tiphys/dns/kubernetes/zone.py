"""Answers for a cluster zone, from `ClusterData`. Pure.

    <service>.<namespace>.svc.<zone>                    A/AAAA: cluster IP, or every endpoint; CNAME; SRV
    _<port>._<protocol>.<service>.<namespace>.svc.<zone> SRV
    <host>.<service>.<namespace>.svc.<zone>             A/AAAA/SRV of one endpoint
    <a-b-c-d>.<namespace>.pod.<zone>                    A/AAAA
    reverse zones                                       PTR to services and endpoints

https://github.com/kubernetes/dns/blob/master/docs/specification.md,
https://coredns.io/plugins/kubernetes/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tiphys.dns.kubernetes.data import ClusterData, EndpointEntry, Key, Port, ServiceEntry
from tiphys.dns.message import (
    AAAA,
    ANY,
    CNAME,
    NOERROR,
    NS,
    NXDOMAIN,
    PTR,
    SOA,
    SRV,
    TXT,
    A,
    Record,
    address_record,
    name_bytes,
    soa_record,
    srv_record,
    text_record,
)

SPECIFICATION: Final = "1.1.0"
DNS_SERVICE: Final = Key("kube-system", "kube-dns")


@dataclass(slots=True)
class Found:
    """An answer. `chase`: the target of a CNAME whose addresses are wanted too."""

    rcode: int = NOERROR
    answers: list[Record] = field(default_factory=list)
    additional: list[Record] = field(default_factory=list)
    chase: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """Of the plugin: `ttl` in seconds; `pods` is disabled, insecure or verified."""

    ttl: int = 5
    pods: str = "disabled"
    pod_names: bool = False  # endpoint_pod_names
    no_endpoints: bool = False
    namespaces: frozenset[str] = frozenset()  # the only ones served; empty: all
    pod_ips: dict[str, set[str]] = field(default_factory=dict)  # for verified: namespace → addresses


def lookup(data: ClusterData, options: Options, zone: str, name: str, kind: int) -> Found:
    """Answer for a name in a forward zone; the server adds the SOA to what is empty."""
    rest = name[: -len(zone)].rstrip(".") if zone != "." else name.rstrip(".")
    labels = rest.split(".") if rest else []
    if not labels:
        return _apex(data, options, zone, kind)
    if labels == ["dns-version"]:
        return Found(answers=[text_record(name, options.ttl, SPECIFICATION)] if kind in (TXT, ANY) else [])
    if labels == ["ns", "dns"]:
        return Found(answers=_addresses(name, _dns_ips(data), kind, options.ttl))
    if labels[-1] == "svc":
        return _service(data, options, zone, name, labels[:-1], kind)
    if labels[-1] == "pod":
        return _pod(data, options, name, labels[:-1], kind)
    # "dns" holds ns.dns; a name above an existing one exists.
    return Found() if labels == ["dns"] else Found(NXDOMAIN)


def reverse(data: ClusterData, options: Options, zone: str, name: str, kind: int) -> Found:
    """Answer for a name of a reverse zone; `zone` is the cluster zone the targets are in."""
    address = address_of(name)
    if address is None:
        return Found(NXDOMAIN)
    service = data.service_of(address)
    targets: list[str] = []
    if service is not None and _served(options, service.key):
        targets = [_service_name(service.key, zone)]
    elif not options.no_endpoints:
        for key, endpoint in data.endpoints_of(address):
            if _served(options, key):
                targets.append(f"{_host(endpoint, options)}.{_service_name(key, zone)}")
    if not targets:
        return Found(NXDOMAIN)
    if kind not in (PTR, ANY):
        return Found()
    return Found(answers=[Record(name, PTR, options.ttl, name_bytes(target)) for target in targets])


def address_of(name: str) -> str | None:
    """The address a reverse name asks for; None when it is not a whole one."""
    if name.endswith(".in-addr.arpa."):
        parts = name.removesuffix(".in-addr.arpa.").split(".")[::-1]
        text = ".".join(parts)
    elif name.endswith(".ip6.arpa."):
        digits = "".join(name.removesuffix(".ip6.arpa.").split(".")[::-1])
        text = ":".join(digits[at : at + 4] for at in range(0, len(digits), 4))
    else:
        return None
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def soa(data: ClusterData, options: Options, zone: str) -> Record:
    """The zone's SOA, as it goes with denials."""
    below = "" if zone == "." else zone
    return soa_record(zone, options.ttl, f"ns.dns.{below}", f"hostmaster.{below}", data.serial)


def _apex(data: ClusterData, options: Options, zone: str, kind: int) -> Found:
    if kind == SOA:
        return Found(answers=[soa(data, options, zone)])
    if kind == NS:
        server = f"ns.dns.{'' if zone == '.' else zone}"
        return Found(
            answers=[Record(zone, NS, options.ttl, name_bytes(server))],
            additional=_addresses(server, _dns_ips(data), ANY, options.ttl),
        )
    return Found()


def _service(data: ClusterData, options: Options, zone: str, name: str, labels: Sequence[str], kind: int) -> Found:
    if not labels:
        return Found()
    namespace = labels[-1]
    if namespace not in data.namespaces or (options.namespaces and namespace not in options.namespaces):
        return Found(NXDOMAIN)
    if len(labels) == 1:
        return Found()
    service = data.services.get(Key(namespace, labels[-2]))
    if service is None:
        return Found(NXDOMAIN)
    above = labels[:-2]
    if service.external_name:
        if above:
            return Found(NXDOMAIN)
        return _external(service, name, kind, options)
    if len(above) == 2:
        if not (above[0].startswith("_") and above[1].startswith("_")):
            return Found(NXDOMAIN)
        return _of_service(data, options, zone, name, service, kind, above[0][1:], above[1][1:])
    if len(above) == 1:
        return _of_endpoint(data, options, name, service, above[0], kind)
    return Found(NXDOMAIN) if above else _of_service(data, options, zone, name, service, kind, "", "")


def _external(service: ServiceEntry, name: str, kind: int, options: Options) -> Found:
    target = service.external_name + "."
    record = Record(name, CNAME, options.ttl, name_bytes(target))
    if kind in (CNAME, ANY):
        return Found(answers=[record])
    return Found(answers=[record], chase=target) if kind in (A, AAAA) else Found(answers=[record])


def _of_service(
    data: ClusterData, options: Options, zone: str, name: str, service: ServiceEntry, kind: int, port: str, proto: str
) -> Found:
    """A Service by its name, or one of its ports."""

    def wanted(ports: Iterable[Port]) -> list[Port]:
        return [each for each in ports if not proto or (each.name == port and each.protocol == proto)]

    ttl = options.ttl
    if not service.is_headless:
        ports = wanted(service.ports)
        if proto and not ports:
            return Found(NXDOMAIN)
        if kind == SRV:
            target = _service_name(service.key, zone)
            weight = 100 // max(1, len(ports))
            return Found(
                answers=[srv_record(name, ttl, 0, weight, each.number, target) for each in ports],
                additional=_addresses(target, service.ips, ANY, ttl) if ports else [],
            )
        return Found(answers=_addresses(name, service.ips, kind, ttl))
    if options.no_endpoints:
        return Found(NXDOMAIN)
    matching = [(each, wanted(each.ports)) for each in data.endpoints(service.key)]
    matching = [(each, ports) for each, ports in matching if ports or not proto]
    if not matching:
        return Found(NXDOMAIN)
    if kind != SRV:
        return Found(answers=_addresses(name, [each.ip for each, _ in matching], kind, ttl))
    found = Found()
    weight = max(1, 100 // max(1, sum(len(ports) for _, ports in matching)))
    for each, ports in matching:
        target = f"{_host(each, options)}.{_service_name(service.key, zone)}"
        found.answers += [srv_record(name, ttl, 0, weight, port.number, target) for port in ports]
        found.additional += _addresses(target, [each.ip], ANY, ttl) if ports else []
    return found


def _of_endpoint(data: ClusterData, options: Options, name: str, service: ServiceEntry, host: str, kind: int) -> Found:
    matching = [each for each in data.endpoints(service.key) if _host(each, options) == host]
    if not matching or options.no_endpoints:
        return Found(NXDOMAIN)
    if kind != SRV:
        return Found(answers=_addresses(name, [each.ip for each in matching], kind, options.ttl))
    ports = [(each, port) for each in matching for port in each.ports]
    weight = max(1, 100 // max(1, len(ports)))
    return Found(
        answers=[srv_record(name, options.ttl, 0, weight, port.number, name) for _, port in ports],
        additional=_addresses(name, [each.ip for each in matching], ANY, options.ttl),
    )


def _pod(data: ClusterData, options: Options, name: str, labels: Sequence[str], kind: int) -> Found:
    if options.pods == "disabled":
        return Found(NXDOMAIN)
    if not labels:
        return Found()
    namespace = labels[-1]
    if namespace not in data.namespaces or (options.namespaces and namespace not in options.namespaces):
        return Found(NXDOMAIN)
    if len(labels) == 1:
        return Found()
    if len(labels) > 2:
        return Found(NXDOMAIN)
    label = labels[0]
    text = label.replace("-", ".") if label.count("-") == 3 and "--" not in label else label.replace("-", ":")
    try:
        address = str(ipaddress.ip_address(text))
    except ValueError:
        return Found(NXDOMAIN)
    if options.pods == "verified" and address not in options.pod_ips.get(namespace, ()):
        return Found(NXDOMAIN)
    return Found(answers=_addresses(name, [address], kind, options.ttl))


def _addresses(name: str, ips: Iterable[str], kind: int, ttl: int) -> list[Record]:
    records = (address_record(name, ip, ttl) for ip in ips)
    return [record for record in records if kind in (record.type, ANY)]


def _host(endpoint: EndpointEntry, options: Options) -> str:
    if options.pod_names and endpoint.pod and endpoint.host == endpoint.ip.replace(".", "-").replace(":", "-"):
        return endpoint.pod if len(endpoint.pod) < 64 else endpoint.host
    return endpoint.host


def _service_name(key: Key, zone: str) -> str:
    return f"{key.name}.{key.namespace}.svc.{zone}"


def _dns_ips(data: ClusterData) -> tuple[str, ...]:
    service = data.services.get(DNS_SERVICE)
    return service.ips if service is not None else ()


def _served(options: Options, key: Key) -> bool:
    return not options.namespaces or key.namespace in options.namespaces
