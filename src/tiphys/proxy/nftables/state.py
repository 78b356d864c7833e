"""The elements the kernel should have and the ones it has, and the script that takes one to the other.

Knows no sockets: `Desired.flush` gives text, `Desired.applied` is told it was accepted. A key
wanted by several Services (two with one external IP) belongs to the first of them; a set element
shared by several (a pod behind two Services) goes with the last.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tiphys.proxy.model import Choice, Endpoint, PortKey, ServiceKey, ServicePort
from tiphys.proxy.nftables.elements import Element, Elements, Pools, fill_slots, front_elements, pool_elements
from tiphys.proxy.nftables.layout import (
    AFFINITY_MAP,
    CLASS_MAPS,
    MAX_CLASS,
    POOL_BITS,
    POOL_MASK,
    TABLE,
    Layout,
    TrafficClass,
)

# One command's elements: keeps libnftables' parser and the netlink messages of a big load reasonable.
CHUNK: Final = 5000
# Owner of the elements that belong to the node and not to a Service.
_NODE: Final = PortKey(ServiceKey("", ""), "", "")


@dataclass(slots=True)
class _Programmed:
    """What one service port has now."""

    cluster: int
    local: int
    pools: Pools
    elements: Elements
    classes: frozenset[TrafficClass]


class Desired:
    """The content of the table for one address family. One thread."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._services: dict[PortKey, _Programmed] = {}
        self._wanted: dict[Element, dict[PortKey, str]] = {}
        self._have: dict[Element, str] = {}
        self._dirty: set[Element] = set()
        self._classes: dict[TrafficClass, int] = {}
        self._class_users: dict[TrafficClass, int] = defaultdict(int)
        self._new_classes: list[TrafficClass] = []
        self._old_classes: list[tuple[TrafficClass, int]] = []
        self._pools = _Numbers(POOL_MASK)
        self._class_numbers = _Numbers(MAX_CLASS)
        self.set_node_ips(())

    # --- what is in the kernel -------------------------------------------------------------

    def adopt(self, found: Mapping[str, Mapping[str, str]]) -> None:
        """Take over the elements of an earlier run (container → key → value), before any service is set.

        Pools have the same numbers in every run and endpoints keep their slots, so that what did
        not change is not written again and no connection sees a gap.
        """
        for key, verdict in found.get("classes", {}).items():
            traffic = TrafficClass.of_chain(verdict.removeprefix("goto "))
            number = int(key) >> POOL_BITS
            if traffic is not None and traffic not in self._classes and (traffic, number) not in self._old_classes:
                self._classes[traffic] = number
                self._class_numbers.take(number)
        self._have = {
            Element(name, key): value
            for name, elements in found.items()
            # Classes come and go with their chains; affinity is filled by packets.
            if name not in (*CLASS_MAPS, AFFINITY_MAP)
            for key, value in elements.items()
        }
        self._dirty.update(self._have)
        self._dirty.update(self._wanted)

    # --- what should be there --------------------------------------------------------------

    def set_service(self, service: ServicePort, choice: Choice) -> None:
        """Say what one service port is now; the difference is written by the next flush."""
        before = self._services.get(service.key)
        if before is None:
            cluster = self._pools.named(f"{service.key} cluster")
            local = self._pools.named(f"{service.key} local")
            found = Pools(*(self._slots_found(pool, service.protocol) for pool in (cluster, local)))
            before = _Programmed(cluster, local, found, {}, frozenset())
        pools = Pools(fill_slots(before.pools.cluster, choice.cluster), fill_slots(before.pools.local, choice.local))
        used: set[TrafficClass] = set()

        def handle(traffic: TrafficClass, pool: int) -> int:
            used.add(traffic)
            return self._class_number(traffic) << POOL_BITS | pool

        elements = front_elements(service, choice, before.cluster, before.local, handle)
        elements.update(pool_elements(before.cluster, service.protocol, pools.cluster))
        elements.update(pool_elements(before.local, service.protocol, pools.local))
        self._replace(service.key, before.elements, elements)
        self._count_classes(frozenset(used), before.classes)
        self._services[service.key] = _Programmed(before.cluster, before.local, pools, elements, frozenset(used))

    def remove_service(self, key: PortKey) -> None:
        """Forget a service port; nothing happens if it is not known."""
        before = self._services.pop(key, None)
        if before is None:
            return
        self._replace(key, before.elements, {})
        self._count_classes(frozenset(), before.classes)
        self._pools.free(before.cluster)
        self._pools.free(before.local)

    def set_node_ips(self, addresses: tuple[str, ...]) -> None:
        """The addresses on which node ports answer."""
        owner = _NODE
        before = {e: "" for e in self._wanted if e.container == "nodeport-ips"}
        self._replace(owner, before, {Element("nodeport-ips", address): "" for address in addresses})

    def set_service_cidrs(self, cidrs: tuple[str, ...]) -> None:
        """As rules.Wanted."""
        before = {e: "" for e in self._wanted if e.container == "service-cidrs"}
        self._replace(_NODE, before, {Element("service-cidrs", cidr): "" for cidr in cidrs})

    def ports(self) -> frozenset[PortKey]:
        """The service ports that are set."""
        return frozenset(self._services)

    # --- the difference --------------------------------------------------------------------

    def flush(self) -> str:
        """The script that brings the kernel to what is wanted; empty when it is there already."""
        deletes: dict[str, list[str]] = defaultdict(list)
        adds: dict[str, list[str]] = defaultdict(list)
        for element in self._dirty:
            want, have = self._value(element), self._have.get(element)
            if want == have:
                continue
            if have is not None:
                deletes[element.container].append(element.key)
            if want is not None:
                adds[element.container].append(f"{element.key} : {want}" if want else element.key)
        name = f"{self.layout.family} {TABLE}"
        # One transaction, so no packet sees a class missing between: what goes is first, and a class that comes
        # back, or another with its number, finds the place free.
        parts = [self.layout.drop_class_script(*old) for old in self._old_classes]
        parts.extend(self.layout.drop_remember_script(seconds) for seconds in self._unused_affinities())
        parts.extend(self.layout.class_script(each, self._classes[each]) for each in self._new_classes)
        parts.extend(_commands("delete", name, deletes))
        parts.extend(_commands("add", name, adds))
        return "".join(parts)

    def applied(self) -> None:
        """The script of the last flush was accepted by the kernel."""
        for element in self._dirty:
            value = self._value(element)
            if value is None:
                self._have.pop(element, None)
            else:
                self._have[element] = value
        self._dirty.clear()
        self._new_classes.clear()
        self._old_classes.clear()

    def forget_kernel(self) -> None:
        """The table is empty (just made): everything wanted has to be written."""
        self._have.clear()
        self._dirty.update(self._wanted)
        self._old_classes.clear()
        for traffic in [each for each, users in self._class_users.items() if not users]:
            number = self._classes.pop(traffic, None)
            if number is not None:
                self._class_numbers.free(number)
        self._new_classes = [each for each in self._classes if self._class_users[each]]

    def drop_unused_classes(self) -> None:
        """Remove the chains nobody is sent to any more with the next flush."""
        for traffic in [each for each in self._classes if not self._class_users[each]]:
            number = self._classes.pop(traffic)
            self._class_users.pop(traffic, None)
            if traffic in self._new_classes:
                self._new_classes.remove(traffic)
            else:
                self._old_classes.append((traffic, number))
            self._class_numbers.free(number)

    # --- inside ----------------------------------------------------------------------------

    def _unused_affinities(self) -> list[int]:
        """The affinity times, in seconds, that no class has any more once the old ones are gone."""
        used = {each.affinity_seconds for each in self._classes if each not in self._new_classes}
        return sorted({traffic.affinity_seconds for traffic, _ in self._old_classes} - used - {0})

    def _value(self, element: Element) -> str | None:
        owners = self._wanted.get(element)
        return next(iter(owners.values())) if owners else None

    def _replace(self, owner: PortKey, before: Mapping[Element, str], after: Mapping[Element, str]) -> None:
        for element in before:
            if element not in after:
                owners = self._wanted.get(element)
                if owners is not None:
                    owners.pop(owner, None)
                    if not owners:
                        del self._wanted[element]
                self._dirty.add(element)
        for element, value in after.items():
            if before.get(element) != value:
                self._wanted.setdefault(element, {})[owner] = value
                self._dirty.add(element)

    def _class_number(self, traffic: TrafficClass) -> int:
        number = self._classes.get(traffic)
        if number is None:
            if self._class_numbers.is_full:
                self.drop_unused_classes()
            number = self._classes[traffic] = self._class_numbers.next()
            self._new_classes.append(traffic)
        return number

    def _count_classes(self, now: frozenset[TrafficClass], before: frozenset[TrafficClass]) -> None:
        for traffic in now - before:
            self._class_users[traffic] += 1
        for traffic in before - now:
            self._class_users[traffic] -= 1

    def _slots_found(self, pool: int, protocol: str) -> tuple[Endpoint, ...]:
        """The endpoints an earlier run left in a pool, in their slots."""
        slots: list[Endpoint] = []
        while (value := self._have.get(Element(f"endpoints-{protocol}", f"{pool} . {len(slots)}"))) is not None:
            ip, port = value.split(" . ")
            slots.append(Endpoint(ip=ip, port=int(port)))
        return tuple(slots)


class _Numbers:
    """Numbers from 1 to a limit, each in use once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used: set[int] = set()
        self._next = 1

    @property
    def is_full(self) -> bool:
        return len(self._used) >= self._limit

    def take(self, number: int) -> int:
        """The number itself or, in use, the next free one; raises RuntimeError when none is free."""
        if self.is_full:
            raise RuntimeError(f"all {self._limit} numbers are in use")
        number = (number - 1) % self._limit + 1
        while number in self._used:
            number = number % self._limit + 1
        self._used.add(number)
        return number

    def named(self, name: str) -> int:
        """A number that is the same in every run, as long as few names meet in one."""
        return self.take(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big"))

    def next(self) -> int:
        """The lowest number not used lately."""
        number = self._next = self.take(self._next)
        return number

    def free(self, number: int) -> None:
        self._used.discard(number)


def _commands(verb: str, table: str, elements: Mapping[str, list[str]]) -> list[str]:
    return [
        f"{verb} element {table} {name} {{ {', '.join(texts[at : at + CHUNK])} }}\n"
        for name, texts in elements.items()
        for at in range(0, len(texts), CHUNK)
    ]
