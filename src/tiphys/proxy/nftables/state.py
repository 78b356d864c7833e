"""The elements the kernel should have and the ones it has, and the script that takes one to the other.

Knows no sockets: `Desired.flush` gives text, `Desired.applied` is told it was accepted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from tiphys.proxy.ledger import Element, Elements, Ledger
from tiphys.proxy.model import Choice, Endpoint, PortKey, ServicePort
from tiphys.proxy.nftables.elements import Pools, fill_slots, front_elements, pool_elements
from tiphys.proxy.nftables.layout import (
    AFFINITY_MAPS,
    CLASS_MAPS,
    MAX_CLASS,
    POOL_BITS,
    POOL_MASK,
    TABLE,
    Layout,
    TrafficClass,
)
from tiphys.proxy.numbers import Numbers


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
        self._ledger = Ledger()
        self._classes: dict[TrafficClass, int] = {}
        self._class_users: dict[TrafficClass, int] = defaultdict(int)
        self._new_classes: list[TrafficClass] = []
        self._old_classes: list[tuple[TrafficClass, int]] = []
        self._pools = Numbers(POOL_MASK)
        self._class_numbers = Numbers(MAX_CLASS)
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
        # Classes come and go with their chains; affinity is filled by packets.
        not_ours = (*CLASS_MAPS, *AFFINITY_MAPS[self.layout.family])
        self._ledger.adopt({name: elements for name, elements in found.items() if name not in not_ours})

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
        self._ledger.replace(service.key, before.elements, elements)
        self._count_classes(frozenset(used), before.classes)
        self._services[service.key] = _Programmed(before.cluster, before.local, pools, elements, frozenset(used))

    def remove_service(self, key: PortKey) -> None:
        """Forget a service port; nothing happens if it is not known."""
        before = self._services.pop(key, None)
        if before is None:
            return
        self._ledger.replace(key, before.elements, {})
        self._count_classes(frozenset(), before.classes)
        self._pools.free(before.cluster)
        self._pools.free(before.local)

    def set_node_ips(self, addresses: tuple[str, ...]) -> None:
        """The addresses on which node ports answer."""
        self._ledger.replace_of_node("nodeport-ips", addresses)

    def set_service_cidrs(self, cidrs: tuple[str, ...]) -> None:
        """As rules.Wanted."""
        self._ledger.replace_of_node("service-cidrs", cidrs)

    def ports(self) -> frozenset[PortKey]:
        """The service ports that are set."""
        return frozenset(self._services)

    # --- the difference --------------------------------------------------------------------

    def flush(self) -> str:
        """The script that brings the kernel to what is wanted; empty when it is there already."""
        name = f"{self.layout.family} {TABLE}"
        # One transaction, so no packet sees a class missing between: what goes is first, and a class that comes
        # back, or another with its number, finds the place free.
        parts = [self.layout.drop_class_script(*old) for old in self._old_classes]
        parts.extend(self.layout.drop_remember_script(seconds) for seconds in self._unused_affinities())
        parts.extend(self.layout.class_script(each, self._classes[each]) for each in self._new_classes)
        parts.extend(self._ledger.commands(name))
        return "".join(parts)

    def applied(self) -> None:
        """The script of the last flush was accepted by the kernel."""
        self._ledger.applied()
        self._new_classes.clear()
        self._old_classes.clear()

    def forget_kernel(self) -> None:
        """The table is empty (just made): everything wanted has to be written."""
        self._ledger.forget_kernel()
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
        while (value := self._ledger.had(Element(f"endpoints-{protocol}", f"{pool} . {len(slots)}"))) is not None:
            ip, port = value.split(" . ")
            slots.append(Endpoint(ip=ip, port=int(port)))
        return tuple(slots)
