"""The static policy: who has which CPUs, kept in `cpu_manager_state`.

```
 all CPUs = reserved ∪ given to containers ∪ what everybody else shares
                 └────────── the default set ──────────┘   (reserved ones are in it, and are never given away)
 {"policyName": "static", "defaultCpuSet": "0,4-7", "entries": {"<uid>": {"<container>": "1-2"}}, "checksum": number}
```
Field names are upstream's.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from tiphys.api.core.v1 import Pod
from tiphys.base.log import get_logger
from tiphys.kubelet.cpumanager.assignment import (
    ALIGN_SOCKET,
    FULL_CORES,
    OPTIONS,
    STRICT_RESERVATION,
    Taker,
)
from tiphys.kubelet.pod import AnyContainer, PodUID, is_sidecar, uid_of
from tiphys.kubelet.qos import GUARANTEED, qos_class
from tiphys.kubelet.resources import container_amounts
from tiphys.kubelet.topology.cpuset import parse, show
from tiphys.kubelet.topology.hints import Hint, Nodes, hints_of
from tiphys.kubelet.topology.machine import CPUTopology

log = get_logger(__name__)

NAME: Final = "cpu_manager_state"
POLICIES: Final = ("none", "static")


class CPUManagerError(ValueError):
    """The configuration, or what a kubelet before this one left, cannot be used: the kubelet does not start."""


class SMTAlignmentError(Exception):
    """Whole cores are asked for (full-pcpus-only) and cannot be given."""


class CPUManager:
    """The node's CPUs. With policy none everybody shares all of them."""

    def __init__(
        self,
        directory: Path,
        topology: CPUTopology,
        *,
        policy: str = "none",
        options: Mapping[str, str] | None = None,
        reserved: frozenset[int] | int = 0,
    ) -> None:
        """`reserved`: the CPUs that are never given away, or how many. Raises CPUManagerError."""
        if policy not in POLICIES:
            raise CPUManagerError(f'unknown policy: "{policy}"')
        self._path = directory / NAME
        self._topology = topology
        self._policy = policy
        self._options = _options(options or {})
        self._taker = Taker(topology, self._options)
        self._reserved = self._reserve(reserved) if self.static else frozenset[int]()
        self._entries: dict[PodUID, dict[str, frozenset[int]]] = {}
        self._saved: dict[str, Any] = {}  # what the file says
        self._restore()

    @property
    def static(self) -> bool:
        return self._policy == "static"

    # -- looking -------------------------------------------------------------------------------------

    def exclusive(self, uid: PodUID, container: str) -> frozenset[int]:
        """The container's own CPUs; empty when it shares."""
        return self._entries.get(uid, {}).get(container, frozenset())

    @property
    def shared(self) -> frozenset[int]:
        """The CPUs of everybody who has none of their own."""
        given = frozenset[int]().union(*(cpus for one in self._entries.values() for cpus in one.values()))
        kept_apart = self._reserved if STRICT_RESERVATION in self._options else frozenset[int]()
        return self._topology.all - given - kept_apart

    @property
    def allocatable(self) -> frozenset[int]:
        """The CPUs that could be somebody's own."""
        return self._topology.all - self._reserved

    def cpuset(self, uid: PodUID, container: str) -> str:
        """The CPUs the container may run on, as a list; "" leaves it to the kernel."""
        return show(self.exclusive(uid, container) or self.shared) if self.static else ""

    def wanted(self, pod: Pod, container: AnyContainer) -> int:
        """How many CPUs of its own the container is to have."""
        if not self.static or qos_class(pod) != GUARANTEED or pod.spec.resources is not None:
            return 0
        amount = container_amounts(container, "limits").get("cpu")
        milli = amount.milli_value() if amount is not None else 0
        return 0 if milli % 1000 else milli // 1000

    def hints(self, pod: Pod, container: AnyContainer, count: int | None = None) -> list[Hint] | None:
        """Where the container's CPUs (`count`: all of its pod's) could lie; None when it needs none of its own."""
        count = self.wanted(pod, container) if count is None else count
        if not count:
            return None
        held = self.exclusive(uid_of(pod), container.name)
        if held:
            nodes = frozenset(self._topology.cpus[cpu].node for cpu in held)
            return [Hint(nodes, True)]
        free = self._free() | self._reusable(pod, container)

        def could(nodes: Nodes) -> bool:
            return len(self._topology.of_nodes(self._widened(nodes))) >= count

        def can(nodes: Nodes) -> bool:
            return len(self._topology.of_nodes(self._widened(nodes)) & free) >= count

        return hints_of(self._topology.nodes, could, can)

    def _widened(self, nodes: Nodes) -> Nodes:
        """With align-by-socket the nodes of one socket count as one."""
        if ALIGN_SOCKET not in self._options:
            return nodes
        sockets = {cpu.socket for cpu in self._topology.cpus.values() if cpu.node in nodes}
        return frozenset(cpu.node for cpu in self._topology.cpus.values() if cpu.socket in sockets)

    # -- giving and taking back ----------------------------------------------------------------------

    def allocate(self, pod: Pod, container: AnyContainer, active: Collection[PodUID], affinity: Nodes | None) -> bool:
        """Give the container its CPUs, near `affinity`; whether the shared ones have changed.

        Raises NotEnoughCPUs, SMTAlignmentError.
        """
        uid, count = uid_of(pod), self.wanted(pod, container)
        before = self.shared
        for gone in set(self._entries) - {uid, *active}:
            del self._entries[gone]
        if count and not self.exclusive(uid, container.name):
            reusable = self._reusable(pod, container)
            free = self._free() | reusable
            self._check_cores(free, count)
            cpus = self._choose(free, reusable, count, affinity)
            self._entries.setdefault(uid, {})[container.name] = cpus
        self._save()
        return self.shared != before

    def release(self, uid: PodUID) -> bool:
        """The pod has ended; whether the shared CPUs have changed."""
        if self._entries.pop(uid, None) is None:
            return False
        self._save()
        return True

    def _choose(
        self, free: frozenset[int], reusable: frozenset[int], count: int, affinity: Nodes | None
    ) -> frozenset[int]:
        """What an init container had first, then what is near, then anything."""
        taken = self._taker.take(reusable, min(count, len(reusable)))
        if affinity is not None:
            near = (self._topology.of_nodes(self._widened(affinity)) & free) - taken
            taken |= self._taker.take(near, min(count - len(taken), len(near)))
        return taken | self._taker.take(free - taken, count - len(taken))

    def _check_cores(self, free: frozenset[int], count: int) -> None:
        """Raises SMTAlignmentError where whole cores are asked for and cannot be had."""
        if FULL_CORES not in self._options:
            return
        threads = self._topology.threads_per_core
        if count % threads:
            raise SMTAlignmentError(
                f"SMT Alignment Error: requested {count} cpus not multiple cpus per core = {threads}"
            )
        cores = self._topology.groups(free, lambda cpu: cpu.core).values()
        whole = sum(len(core) for core in cores if len(core) == threads)
        if whole < count:
            raise SMTAlignmentError(
                f"SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {whole}, "
                f"requested CPUs = {count}, CPUs per core = {threads}"
            )

    def _free(self) -> frozenset[int]:
        return self.shared - self._reserved

    def _reusable(self, pod: Pod, container: AnyContainer) -> frozenset[int]:
        """The CPUs of the pod's init containers before this one, which have ended when it starts."""
        mine = self._entries.get(uid_of(pod), {})
        ordinary = [item.name for item in pod.spec.init_containers if not is_sidecar(item)]
        earlier = frozenset[int]().union(
            *(cpus for name, cpus in mine.items() if name in ordinary and name != container.name)
        )
        lasting = frozenset[int]().union(*(cpus for name, cpus in mine.items() if name not in ordinary))
        return earlier - lasting

    # -- start ---------------------------------------------------------------------------------------

    def _reserve(self, reserved: frozenset[int] | int) -> frozenset[int]:
        if isinstance(reserved, frozenset):
            if not reserved <= self._topology.all:
                raise CPUManagerError(f"reserved CPUs {show(reserved)} are not all there: {show(self._topology.all)}")
            return reserved
        if reserved == 0:
            raise CPUManagerError(
                "the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"
            )
        return Taker(self._topology).take(self._topology.all, min(reserved, len(self._topology.all)))

    def _restore(self) -> None:
        """Take over what the file says. Raises CPUManagerError where that does not fit what is configured."""
        hint = (
            f"please drain this node and delete the CPU manager checkpoint file {str(self._path)!r} before restarting"
        )
        try:
            document: dict[str, Any] = json.loads(self._path.read_text())
            if document.pop("checksum", None) != _checksum(document):
                raise CPUManagerError(
                    f"could not restore state from checkpoint: checkpoint is corrupted, {hint} Kubelet"
                )
            entries = {
                PodUID(uid): {name: parse(cpus) for name, cpus in containers.items()}
                for uid, containers in document.get("entries", {}).items()
            }
        except FileNotFoundError:
            self._save()
            return
        except (OSError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise CPUManagerError(f"could not restore state from checkpoint: {error}, {hint} Kubelet") from error
        if document["policyName"] != self._policy:
            raise CPUManagerError(
                f'could not restore state from checkpoint: configured policy "{self._policy}" differs from state '
                f'checkpoint policy "{document["policyName"]}", {hint} Kubelet'
            )
        given = frozenset[int]().union(*(cpus for one in entries.values() for cpus in one.values()))
        if not given <= self.allocatable:
            available = show(self.allocatable)
            raise CPUManagerError(
                f"current set of available CPUs {available!r} doesn't match with CPUs in state, {hint} Kubelet"
            )
        self._entries = entries
        self._save()

    def _save(self) -> None:
        document: dict[str, Any] = {
            "policyName": self._policy,
            "defaultCpuSet": show(self.shared) if self.static else "",
        }
        if self._entries:
            document["entries"] = {
                uid: {name: show(cpus) for name, cpus in containers.items()}
                for uid, containers in self._entries.items()
            }
        if document == self._saved:
            return  # most pods are given nothing
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(f".{NAME}")
        fresh.write_text(json.dumps({**document, "checksum": _checksum(document)}))
        os.replace(fresh, self._path)
        self._saved = document


def _options(given: Mapping[str, str]) -> frozenset[str]:
    for name, value in given.items():
        if name not in OPTIONS:
            raise CPUManagerError(f'unsupported cpumanager option: "{name}" ({value})')
        if value not in ("true", "false"):
            raise CPUManagerError(f'bad value for option "{name}": {value}')
    return frozenset(name for name, value in given.items() if value == "true")


def _checksum(document: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True).encode())
