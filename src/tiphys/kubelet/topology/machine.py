"""How the machine's CPUs lie, and what memory is near to which.

```
 socket 0                                  socket 1
   NUMA node 0                               NUMA node 1
     core 0: cpu 0, cpu 4   core 1: cpu 1, …   core 2: cpu 2, …
     memory 16 GiB                             memory 16 GiB
```
Read from /sys/devices/system (https://docs.kernel.org/admin-guide/cputopology.html).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tiphys.kubelet.topology.cpuset import parse

SYSTEM: Final = Path("/sys/devices/system")


@dataclass(frozen=True, slots=True)
class CPU:
    """One logical CPU: its core, socket, NUMA node and last-level cache; numbers are unique on the machine."""

    id: int
    core: int
    socket: int
    node: int
    cache: int = 0


@dataclass(frozen=True, slots=True)
class CPUTopology:
    """All CPUs by number, and the memory of each NUMA node in bytes by type (`memory`, `hugepages-2Mi`)."""

    cpus: Mapping[int, CPU]
    memory: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    distances: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def all(self) -> frozenset[int]:
        return frozenset(self.cpus)

    @property
    def nodes(self) -> frozenset[int]:
        return frozenset(cpu.node for cpu in self.cpus.values()) | frozenset(self.memory)

    @property
    def threads_per_core(self) -> int:
        return max((len(cpus) for cpus in self.groups(self.cpus, lambda cpu: cpu.core).values()), default=1)

    def of_nodes(self, nodes: Iterable[int]) -> frozenset[int]:
        wanted = set(nodes)
        return frozenset(cpu.id for cpu in self.cpus.values() if cpu.node in wanted)

    def groups(self, cpus: Iterable[int], key: Callable[[CPU], int]) -> dict[int, set[int]]:
        """These CPUs by what `key` says of each."""
        found: dict[int, set[int]] = defaultdict(set)
        for cpu in cpus:
            found[key(self.cpus[cpu])].add(cpu)
        return found


def read_topology(memory: int, system: Path = SYSTEM) -> CPUTopology:
    """The machine's; one NUMA node with all of the `memory` (bytes) where the kernel tells of none."""
    node_of: dict[int, int] = {}
    memories: dict[int, dict[str, int]] = {}
    distances: dict[int, tuple[int, ...]] = {}
    for directory in sorted((system / "node").glob("node[0-9]*")):
        node = int(directory.name[4:])
        node_of.update(dict.fromkeys(parse(_text(directory / "cpulist")), node))
        memories[node] = _memory_of(directory)
        distances[node] = tuple(int(word) for word in _text(directory / "distance").split())
    online = parse(_text(system / "cpu" / "online")) or frozenset(node_of) or frozenset({0})
    cores: dict[tuple[int, int], int] = {}
    cpus = {}
    for cpu in sorted(online):
        place = system / "cpu" / f"cpu{cpu}"
        socket = max(0, _number(place / "topology" / "physical_package_id", 0))
        # Core numbers repeat from socket to socket: the first CPU of a core names it.
        core = cores.setdefault((socket, _number(place / "topology" / "core_id", cpu)), cpu)
        shared = parse(_text(place / "cache" / "index3" / "shared_cpu_list"))
        cpus[cpu] = CPU(cpu, core, socket, node_of.get(cpu, 0), min(shared, default=socket))
    return CPUTopology(cpus, memories or {0: {"memory": memory}}, distances)


def _memory_of(node: Path) -> dict[str, int]:
    found = re.search(r"MemTotal:\s+(\d+) kB", _text(node / "meminfo"))
    amounts = {"memory": int(found[1]) * 1024 if found else 0}
    for directory in (node / "hugepages").glob("hugepages-*kB"):
        size = int(directory.name[len("hugepages-") : -len("kB")])
        name = f"{size // 1024**2}Gi" if size % 1024**2 == 0 else f"{size // 1024}Mi" if size >= 1024 else f"{size}Ki"
        pages = _number(directory / "nr_hugepages", 0)
        amounts[f"hugepages-{name}"] = pages * size * 1024
        amounts["memory"] -= pages * size * 1024
    return amounts


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path, otherwise: int) -> int:
    text = _text(path)
    return int(text) if text.lstrip("-").isdigit() else otherwise
