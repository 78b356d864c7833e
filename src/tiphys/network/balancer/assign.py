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


@dataclass(frozen=True, slots=True)
class Pool:
    """IPv4 addresses, as ranges of first and last."""

    ranges: tuple[tuple[ipaddress.IPv4Address, ipaddress.IPv4Address], ...]

    @classmethod
    def parse(cls, text: str) -> Pool:
        """Of "192.0.2.10-192.0.2.20,198.51.100.0/28". Raises ValueError."""
        ranges = []
        for part in filter(None, text.split(",")):
            first, dash, last = part.partition("-")
            if dash:
                ends = ipaddress.IPv4Address(first.strip()), ipaddress.IPv4Address(last.strip())
            else:
                network = ipaddress.IPv4Network(part.strip())
                ends = network[0], network[-1]
            if ends[0] > ends[1]:
                raise ValueError(f"{part}: the first address is behind the last")
            ranges.append(ends)
        return cls(tuple(ranges))

    def __contains__(self, address: str) -> bool:
        try:
            ip = ipaddress.IPv4Address(address)
        except ValueError:
            return False
        return any(first <= ip <= last for first, last in self.ranges)

    def __iter__(self) -> Iterator[str]:
        for first, last in self.ranges:
            yield from (str(ipaddress.IPv4Address(number)) for number in range(int(first), int(last) + 1))


@dataclass(slots=True)
class Assignment:
    """Address of each Service, and what stands in the way of those without one."""

    addresses: dict[ObjectName, str] = field(default_factory=dict)
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


def assign(services: Iterable[Service], pool: Pool) -> Assignment:
    """Decide for all Services at once; the same input gives the same answer."""
    made = Assignment()
    wanting = sorted(
        (each for each in services if wants_address(each)),
        key=lambda each: (str(each.metadata.creation_timestamp or ""), each.metadata.namespace, each.metadata.name),
    )
    taken: set[str] = set()
    waiting: list[tuple[ObjectName, Service]] = []
    for service in wanting:
        name = ObjectName(service.metadata.namespace, service.metadata.name)
        wish = service.spec.load_balancer_ip
        kept = next((ip for ip in present_addresses(service) if ip in pool and ip not in taken), "")
        if kept and wish in ("", kept):
            made.addresses[name] = kept
            taken.add(kept)
        else:
            waiting.append((name, service))
    for name, service in waiting:
        wish = service.spec.load_balancer_ip
        if wish and wish not in pool:
            made.problems[name] = f"address {wish} is not in the pool"
        elif wish and wish in taken:
            made.problems[name] = f"address {wish} is another Service's"
        elif wish:
            made.addresses[name] = wish
            taken.add(wish)
    free = (ip for ip in pool if ip not in taken)
    for name, service in waiting:
        if not service.spec.load_balancer_ip:
            address = next(free, "")
            if address:
                made.addresses[name] = address
            else:
                made.problems[name] = "no address of the pool is free"
    return made
