"""Which Service has which address of the pool. Pure.

An address once written in a Service's status is kept; then the wishes (`spec.loadBalancerIP`) are
heard; the others get the lowest that is free, oldest Service first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tiphys.api.core.v1 import Service
from tiphys.machinery.meta import ObjectName

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses, as ranges of first and last."""

    ranges: tuple[tuple[IPAddress, IPAddress], ...]

    @classmethod
    def parse(cls, text: str) -> Pool:
        """Of "192.0.2.10-192.0.2.20,198.51.100.0/28,2001:db8::10-2001:db8::20". Raises ValueError."""
        ranges = []
        for part in filter(None, text.split(",")):
            first, dash, last = part.partition("-")
            if dash:
                ends = ipaddress.ip_address(first.strip()), ipaddress.ip_address(last.strip())
            else:
                network = ipaddress.ip_network(part.strip())
                ends = network[0], network[-1]
            if ends[0].version != ends[1].version:
                raise ValueError(f"{part}: the ends are of different families")
            if int(ends[0]) > int(ends[1]):
                raise ValueError(f"{part}: the first address is behind the last")
            ranges.append(ends)
        return cls(tuple(ranges))

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions there are addresses of."""
        return frozenset(first.version for first, _ in self.ranges)

    def of(self, version: int) -> Pool:
        """The part of one family."""
        return Pool(tuple(each for each in self.ranges if each[0].version == version))

    def __contains__(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        number = int(ip)
        return any(int(first) <= number <= int(last) for first, last in self.ranges if first.version == ip.version)

    def __iter__(self) -> Iterator[str]:
        for first, last in self.ranges:
            yield from (str(first + offset) for offset in range(int(last) - int(first) + 1))


@dataclass(slots=True)
class Assignment:
    """Addresses of each Service, one a family, its primary first, and what stands in the way of those without one."""

    addresses: dict[ObjectName, tuple[str, ...]] = field(default_factory=dict)
    problems: dict[ObjectName, str] = field(default_factory=dict)


def wants_address(service: Service) -> bool:
    """Whether the Service is ours; one with a class is someone else's."""
    spec = service.spec
    is_leaving = service.metadata.deletion_timestamp is not None
    return spec.type == "LoadBalancer" and not spec.load_balancer_class and not is_leaving


def present_addresses(service: Service) -> tuple[str, ...]:
    """The addresses in the Service's status."""
    status = service.status.load_balancer
    return () if status is None else tuple(each.ip for each in status.ingress if each.ip)


def versions_of(service: Service) -> tuple[int, ...]:
    """The IP versions of a Service, its primary one first."""
    return tuple(int(each.removeprefix("IPv")) for each in service.spec.ip_families) or (4,)


def assign(services: Iterable[Service], pool: Pool) -> Assignment:
    """Decide for all Services at once; the same input gives the same answer."""
    made = Assignment()
    wanting = sorted(
        (each for each in services if wants_address(each)),
        key=lambda each: (str(each.metadata.creation_timestamp or ""), each.metadata.namespace, each.metadata.name),
    )
    given: dict[int, dict[ObjectName, str]] = {}
    for version in (4, 6):
        # Of a family the pool does not have, a Service that can do without goes without.
        asking = [
            each
            for each in wanting
            if version in versions_of(each)
            and (version in pool.versions or not pool.versions.intersection(versions_of(each)))
        ]
        given[version] = _assign_family(asking, pool.of(version), version, made.problems)
    for service in wanting:
        name = ObjectName(service.metadata.namespace, service.metadata.name)
        found = tuple(given[version][name] for version in versions_of(service) if name in given[version])
        if found:
            made.addresses[name] = found
    return made


def _assign_family(
    wanting: Iterable[Service], pool: Pool, version: int, problems: dict[ObjectName, str]
) -> dict[ObjectName, str]:
    """One family's address of each Service; `problems` are added to."""
    found: dict[ObjectName, str] = {}
    taken: set[str] = set()
    waiting: list[tuple[ObjectName, str]] = []
    for service in wanting:
        name = ObjectName(service.metadata.namespace, service.metadata.name)
        wish = service.spec.load_balancer_ip
        if wish and version != versions_of(service)[0] and _version(wish) != version:
            wish = ""  # it is about the other family
        kept = next((ip for ip in present_addresses(service) if ip in pool and ip not in taken), "")
        if kept and wish in ("", kept):
            found[name] = kept
            taken.add(kept)
        else:
            waiting.append((name, wish))
    for name, wish in waiting:
        if wish and wish not in pool:
            problems[name] = f"address {wish} is not in the pool"
        elif wish and wish in taken:
            problems[name] = f"address {wish} is another Service's"
        elif wish:
            found[name] = wish
            taken.add(wish)
    free = (ip for ip in pool if ip not in taken)
    for name, wish in waiting:
        if not wish:
            address = next(free, "")
            if address:
                found[name] = address
            else:
                problems[name] = "no address of the pool is free"
    return found


def _version(address: str) -> int:
    return 6 if ":" in address else 4
