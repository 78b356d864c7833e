"""Which CPUs a container gets out of the free ones. Pure.

Packed (the default): whole NUMA nodes, then whole last-level caches where asked, then whole cores, then threads; what
is already begun is filled up first, so that whole pieces stay whole for others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tiphys.kubelet.topology.machine import CPU, CPUTopology

FULL_CORES: Final = "full-pcpus-only"
ACROSS_NUMA: Final = "distribute-cpus-across-numa"
ALIGN_SOCKET: Final = "align-by-socket"
ACROSS_CORES: Final = "distribute-cpus-across-cores"
STRICT_RESERVATION: Final = "strict-cpu-reservation"
ALIGN_CACHE: Final = "prefer-align-cpus-by-uncorecache"
OPTIONS: Final = (FULL_CORES, ACROSS_NUMA, ALIGN_SOCKET, ACROSS_CORES, STRICT_RESERVATION, ALIGN_CACHE)


class NotEnoughCPUs(Exception):
    """There are fewer free CPUs than asked for; the text is upstream's."""


@dataclass(frozen=True, slots=True)
class Taker:
    """Takes CPUs on one machine, under the options of the policy."""

    topology: CPUTopology
    options: frozenset[str] = frozenset()

    def take(self, free: frozenset[int], count: int) -> frozenset[int]:
        """`count` of the free CPUs. Raises NotEnoughCPUs."""
        if len(free) < count:
            raise NotEnoughCPUs(
                f"not enough cpus available to satisfy request: requested={count}, available={len(free)}"
            )
        if ACROSS_NUMA in self.options:
            spread = self._across_nodes(free, count)
            if spread is not None:
                return spread
        if ACROSS_CORES in self.options:
            return self._across_cores(free, count)
        return self._packed(free, count)

    def _packed(self, free: frozenset[int], count: int) -> frozenset[int]:
        taken: set[int] = set()
        levels: list[Callable[[CPU], int]] = [lambda cpu: cpu.socket, lambda cpu: cpu.node]
        if ALIGN_CACHE in self.options:
            levels.append(lambda cpu: cpu.cache)
        levels.append(lambda cpu: cpu.core)
        for level in levels:
            whole = self.topology.groups(self.topology.cpus, level)
            for piece in self._by_use(set(free) - taken, level):
                if piece == whole[level(self.topology.cpus[min(piece)])] and len(piece) <= count - len(taken):
                    taken |= piece
            if ALIGN_CACHE in self.options and level is levels[-2] and len(taken) < count:
                taken |= self._within_one_cache(frozenset(free - taken), count - len(taken))
        order = sorted(free - taken, key=lambda cpu: self._fullness(free - taken, cpu))
        return frozenset(taken | set(order[: count - len(taken)]))

    def _by_use(self, free: set[int], level: Callable[[CPU], int]) -> list[set[int]]:
        """The pieces of `free` on a level, those of the most used sockets first."""
        pieces = self.topology.groups(free, level).values()
        return sorted(pieces, key=lambda piece: self._fullness(frozenset(free), min(piece)))

    def _fullness(self, free: frozenset[int], cpu: int) -> tuple[int, ...]:
        """Sorts a CPU of a much used neighbourhood before one of a fresh one."""
        one = self.topology.cpus[cpu]
        near = [self.topology.cpus[other] for other in free]
        return (
            sum(other.socket == one.socket for other in near),
            sum(other.node == one.node for other in near),
            one.socket,
            one.node,
            sum(other.core == one.core for other in near),
            one.core,
            cpu,
        )

    def _within_one_cache(self, free: frozenset[int], count: int) -> frozenset[int]:
        """The rest of a request inside one cache, the tightest that holds it; nothing when none does."""
        pieces = [p for p in self.topology.groups(free, lambda cpu: cpu.cache).values() if len(p) >= count]
        if not pieces:
            return frozenset()
        piece = min(pieces, key=lambda found: (len(found), min(found)))
        return Taker(self.topology, self.options - {ALIGN_CACHE})._packed(frozenset(piece), count)

    def _across_cores(self, free: frozenset[int], count: int) -> frozenset[int]:
        """One thread of each core before the second of any."""
        cores = self.topology.groups(free, lambda cpu: cpu.core).values()
        rounds = itertools.zip_longest(*(sorted(core) for core in sorted(cores, key=min)))
        order = [cpu for turn in rounds for cpu in turn if cpu is not None]
        return frozenset(order[:count])

    def _across_nodes(self, free: frozenset[int], count: int) -> frozenset[int] | None:
        """Evenly from as few NUMA nodes as hold them; None when no even way exists, or one node is enough."""
        pieces = self.topology.groups(free, lambda cpu: cpu.node)
        group = self.topology.threads_per_core if FULL_CORES in self.options else 1
        for width in range(1, len(pieces) + 1):
            fitting = [
                nodes
                for nodes in itertools.combinations(sorted(pieces), width)
                if sum(len(pieces[node]) for node in nodes) >= count
            ]
            for nodes in sorted(fitting, key=lambda nodes: -min(len(pieces[node]) for node in nodes)):
                shares = _even(count, len(nodes), group)
                if shares is None or any(len(pieces[n]) < share for n, share in zip(nodes, shares, strict=True)):
                    continue
                if width == 1:
                    return None
                taken = (
                    self._packed(frozenset(pieces[n]), share) for n, share in zip(nodes, shares, strict=True) if share
                )
                return frozenset[int]().union(*taken)
        return None


def _even(count: int, parts: int, group: int) -> list[int] | None:
    """`count` in so many parts, each of whole groups and none a group larger than another."""
    if count % group:
        return None
    least, more = divmod(count // group, parts)
    return [(least + (number < more)) * group for number in range(parts)]
