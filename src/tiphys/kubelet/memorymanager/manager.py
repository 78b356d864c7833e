"""The Static policy: whose memory is on which NUMA nodes, kept in `memory_manager_state`.

```
 node 0   [reserved][ pod a ][ pod b        ]        a set of nodes is given out as one group: while a container has
 node 1   [reserved][ pod b               ]          memory on {0,1}, nobody gets {0} or {1} alone
```
Field names of the file are upstream's. Sizes in bytes.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.pod import AnyContainer, PodUID, is_sidecar, uid_of
from tiphys.kubelet.qos import GUARANTEED, qos_class
from tiphys.kubelet.resources import container_amounts
from tiphys.kubelet.topology.cpuset import show
from tiphys.kubelet.topology.hints import Hint, Nodes, combinations, hints_of
from tiphys.kubelet.topology.machine import CPUTopology
from tiphys.machinery.quantity import Quantity

NAME: Final = "memory_manager_state"
POLICIES: Final = ("None", "Static")


class MemoryManagerError(ValueError):
    """The configuration, or what a kubelet before this one left, cannot be used: the kubelet does not start."""


class NotEnoughMemory(Exception):
    """No NUMA nodes hold what a container asks for; the text is upstream's."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some memory of one type on some nodes; `passing`: of an init container, used again by those after it."""

    nodes: Nodes
    type: str
    size: int
    passing: bool = False


class MemoryManager:
    """The memory of the node's NUMA nodes. With policy None the kernel decides alone."""

    def __init__(
        self,
        directory: Path,
        topology: CPUTopology,
        *,
        policy: str = "None",
        reserved: Sequence[Mapping[str, Any]] = (),
        reserved_in_all: int = 0,
    ) -> None:
        """`reserved` is the configuration's list by node; it has to add up to `reserved_in_all` bytes of memory.

        Raises MemoryManagerError.
        """
        if policy not in POLICIES:
            raise MemoryManagerError(f'unknown policy: "{policy}"')
        self._path = directory / NAME
        self._policy = policy
        self._nodes = topology.nodes
        kept = _reserved(reserved)
        if self.static and (total := sum(kinds.get("memory", 0) for kinds in kept.values())) != reserved_in_all:
            raise MemoryManagerError(
                f'the total amount "{total}" of type "memory" is not equal to the value "{reserved_in_all}" '
                "determined by Node Allocatable feature"
            )
        self._total = {
            node: {kind: max(0, size - kept.get(node, {}).get(kind, 0)) for kind, size in kinds.items()}
            for node, kinds in topology.memory.items()
        }
        self._entries: dict[PodUID, dict[str, tuple[Block, ...]]] = {}
        self._saved: dict[str, Any] = {}  # what the file says
        self._restore()

    @property
    def static(self) -> bool:
        return self._policy == "Static"

    def blocks(self, uid: PodUID, container: str) -> tuple[Block, ...]:
        """What the container has; () when the kernel decides."""
        return self._entries.get(uid, {}).get(container, ())

    def allocatable(self) -> Iterator[Block]:
        """What could be given out in all, node by node."""
        if self.static:
            for node, kinds in sorted(self._total.items()):
                yield from (Block(frozenset({node}), kind, size) for kind, size in kinds.items() if size)

    def mems(self, uid: PodUID, container: str) -> str:
        """The memory nodes the container may use, as a list; "" leaves it to the kernel."""
        return show(frozenset[int]().union(*(block.nodes for block in self.blocks(uid, container))))

    def wanted(self, pod: Pod, container: AnyContainer) -> dict[str, int]:
        """Bytes by type the container is to have on chosen nodes."""
        if not self.static or qos_class(pod) != GUARANTEED:
            return {}
        limits = container_amounts(container, "limits")
        return {
            name: amount.value()
            for name, amount in limits.items()
            if (name == "memory" or name.startswith("hugepages-")) and amount.value() > 0
        }

    def hints(
        self, pod: Pod, container: AnyContainer, amounts: Mapping[str, int] | None = None
    ) -> dict[str, list[Hint]]:
        """Where the container's memory (`amounts`: that of its whole pod) could lie, by type."""
        held = self.blocks(uid_of(pod), container.name)
        if held:
            return {block.type: [Hint(block.nodes, True)] for block in held}
        amounts = self.wanted(pod, container) if amounts is None else amounts
        found = {}
        for kind, size in amounts.items():

            def could(nodes: Nodes, kind: str = kind, size: int = size) -> bool:
                return sum(self._total.get(node, {}).get(kind, 0) for node in nodes) >= size

            def can(nodes: Nodes) -> bool:
                return self._fits(pod, container, nodes, amounts)

            found[kind] = hints_of(self._nodes, could, can)
        return found

    def allocate(self, pod: Pod, container: AnyContainer, active: Collection[PodUID], affinity: Nodes | None) -> None:
        """Give the container its memory, on `affinity` where that is told. Raises NotEnoughMemory."""
        uid, amounts = uid_of(pod), self.wanted(pod, container)
        for gone in set(self._entries) - {uid, *active}:
            del self._entries[gone]
        if amounts and not self.blocks(uid, container.name):
            nodes = self._place(pod, container, affinity, amounts)
            passing = container in pod.spec.init_containers and not is_sidecar(container)
            blocks = tuple(Block(nodes, kind, size, passing) for kind, size in amounts.items())
            self._entries.setdefault(uid, {})[container.name] = blocks
        self._save()

    def release(self, uid: PodUID) -> None:
        """The pod has ended."""
        if self._entries.pop(uid, None) is not None:
            self._save()

    def _place(self, pod: Pod, container: AnyContainer, affinity: Nodes | None, amounts: Mapping[str, int]) -> Nodes:
        if affinity is not None and self._fits(pod, container, affinity, amounts):
            return affinity
        # What the hint leaves too little of is sought on as few nodes more as it takes.
        wider = (nodes for nodes in combinations(self._nodes) if affinity is None or nodes >= affinity)
        for nodes in wider:
            if self._fits(pod, container, nodes, amounts):
                return nodes
        raise NotEnoughMemory(
            "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available"
        )

    def _fits(self, pod: Pod, container: AnyContainer, nodes: Nodes, amounts: Mapping[str, int]) -> bool:
        uid = uid_of(pod)
        for other, containers in self._entries.items():
            for blocks in containers.values():
                # Groups must be the same or have nothing in common.
                if other != uid and any(block.nodes != nodes and block.nodes & nodes for block in blocks):
                    return False
        passing = container in pod.spec.init_containers and not is_sidecar(container)
        for kind, size in amounts.items():
            room = sum(self._total.get(node, {}).get(kind, 0) for node in nodes)
            used = sum(_used(blocks, nodes, kind) for other, blocks in self._entries.items() if other != uid)
            mine = _used({**self._entries.get(uid, {}), "": (Block(nodes, kind, size, passing),)}, nodes, kind)
            if used + mine > room:
                return False
        return True

    # -- the file ------------------------------------------------------------------------------------

    def _restore(self) -> None:
        hint = f"please drain this node and delete the memory manager checkpoint file {str(self._path)!r} before"
        try:
            document = json.loads(self._path.read_text())
            if document.pop("checksum", None) != _checksum(document):
                raise ValueError("checkpoint is corrupted")
            if document["policyName"] != self._policy:
                before = document["policyName"]
                raise ValueError(f'configured policy "{self._policy}" differs from state checkpoint policy "{before}"')
            self._entries = {
                PodUID(uid): {name: tuple(map(_read_block, blocks)) for name, blocks in containers.items()}
                for uid, containers in document.get("entries", {}).items()
            }
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            said = f"could not restore state from checkpoint: {error}, {hint} restarting Kubelet"
            raise MemoryManagerError(said) from error
        self._save()

    def _save(self) -> None:
        document: dict[str, Any] = {"policyName": self._policy, "machineState": self._machine_state()}
        if self._entries:
            document["entries"] = {
                uid: {name: [_write_block(block) for block in blocks] for name, blocks in containers.items()}
                for uid, containers in self._entries.items()
            }
        if document == self._saved:
            return  # most pods are given nothing
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(f".{NAME}")
        fresh.write_text(json.dumps({**document, "checksum": _checksum(document)}))
        os.replace(fresh, self._path)
        self._saved = document

    def _machine_state(self) -> dict[str, Any]:
        if not self.static:
            return {}
        return {
            str(node): {"memoryMap": {kind: {"allocatable": size} for kind, size in kinds.items()}}
            for node, kinds in sorted(self._total.items())
        }


def _used(containers: Mapping[str, Sequence[Block]], nodes: Nodes, kind: str) -> int:
    """What one pod uses of the nodes: its lasting containers together, or its largest passing one if that is more."""
    lasting = passing = 0
    for blocks in containers.values():
        for block in blocks:
            if block.type == kind and block.nodes & nodes:
                lasting += 0 if block.passing else block.size
                passing = max(passing, block.size if block.passing else 0)
    return max(lasting, passing)


def _reserved(given: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, int]]:
    return {
        int(item["numaNode"]): {name: Quantity.parse(str(size)).value() for name, size in item["limits"].items()}
        for item in given
    }


def _write_block(block: Block) -> dict[str, Any]:
    document: dict[str, Any] = {"numaAffinity": sorted(block.nodes), "type": block.type, "size": block.size}
    return {**document, "passing": True} if block.passing else document


def _read_block(document: Mapping[str, Any]) -> Block:
    passing = bool(document.get("passing", False))
    return Block(frozenset(document["numaAffinity"]), document["type"], document["size"], passing)


def _checksum(document: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True).encode())
