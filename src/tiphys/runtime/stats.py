"""Usage of containers and pods, read from control groups, /proc and the writable layers.

CPU rates need two readings: the one of the call before is kept. What a writable layer takes is counted by walking
it, in a worker thread, and not again within `LAYER_AGE`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from tiphys.api.cri import api_pb2
from tiphys.runtime import namespaces
from tiphys.runtime.cgroups import Usage
from tiphys.runtime.container import Container
from tiphys.runtime.images.store import disk_usage
from tiphys.runtime.node import Node, now
from tiphys.runtime.sandboxes import Sandbox

LAYER_AGE: Final = 10.0  # seconds
# A rate over less time than this is noise; the former rate is told again.
LEAST_INTERVAL: Final = 100_000_000  # nanoseconds


@dataclass(slots=True)
class _Rate:
    when: int
    cpu: int
    nano_cores: int = 0


class Stats:
    """Statistics of one node's containers."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rates: dict[str, _Rate] = {}
        self._layers: dict[str, tuple[float, int, int]] = {}

    async def container(self, container: Container) -> api_pb2.ContainerStats:
        """Usage of one container; an ended one has only its attributes and its writable layer."""
        used, inodes = await self._layer(container)
        usage = await self._node.blocking(self._node.cgroups.usage, container.record.cgroup)
        moment = now()
        stats = api_pb2.ContainerStats(
            attributes=api_pb2.ContainerAttributes(
                id=container.id,
                metadata=container.config.metadata,
                labels=container.config.labels,
                annotations=container.config.annotations,
            ),
            writable_layer=api_pb2.FilesystemUsage(
                timestamp=moment,
                fs_id=api_pb2.FilesystemIdentifier(mountpoint=str(self._node.options.root)),
                used_bytes=api_pb2.UInt64Value(value=used),
                inodes_used=api_pb2.UInt64Value(value=inodes),
            ),
        )
        if usage is None:
            self._rates.pop(container.id, None)
            return stats
        stats.cpu.CopyFrom(self._cpu(container.id, usage, moment))
        stats.memory.CopyFrom(memory_usage(usage, moment))
        stats.swap.timestamp = moment
        stats.swap.swap_usage_bytes.value = usage.swap
        if usage.swap_limit is not None:
            stats.swap.swap_available_bytes.value = max(0, usage.swap_limit - usage.swap)
        return stats

    async def sandbox(self, sandbox: Sandbox, containers: list[Container]) -> api_pb2.PodSandboxStats:
        """Usage of a pod: its control group, its interfaces, its containers."""
        stats = api_pb2.PodSandboxStats(
            attributes=api_pb2.PodSandboxAttributes(
                id=sandbox.id,
                metadata=sandbox.config.metadata,
                labels=sandbox.config.labels,
                annotations=sandbox.config.annotations,
            )
        )
        parent = sandbox.config.linux.cgroup_parent
        usage = await self._node.blocking(self._node.cgroups.usage, parent) if parent.strip("/") else None
        moment = now()
        if usage is not None:
            stats.linux.cpu.CopyFrom(self._cpu(sandbox.id, usage, moment))
            stats.linux.memory.CopyFrom(memory_usage(usage, moment))
            stats.linux.process.timestamp = moment
            stats.linux.process.process_count.value = usage.processes
        interfaces = await self._node.blocking(self._interfaces, sandbox)
        if interfaces:
            stats.linux.network.timestamp = moment
            stats.linux.network.default_interface.CopyFrom(interfaces[0])
            stats.linux.network.interfaces.extend(interfaces[1:])
        for container in containers:
            if not container.record.infra:
                stats.linux.containers.append(await self.container(container))
        return stats

    def _interfaces(self, sandbox: Sandbox) -> list[api_pb2.NetworkInterfaceUsage]:
        """Counters of the pod's interfaces, its default one (eth0) first; none for pods on the node's network."""
        if not sandbox.record.netns:
            return []
        try:
            text = namespaces.inside(sandbox.record.netns, _read_net_dev)
        except OSError:  # stopped meanwhile
            return []
        return sorted(parse_net_dev(text), key=lambda usage: (usage.name != "eth0", usage.name))

    async def _layer(self, container: Container) -> tuple[int, int]:
        kept = self._layers.get(container.id)
        if kept is None or time.monotonic() - kept[0] > LAYER_AGE:
            upper = self._node.options.container_root(container.id) / "diff"
            used, inodes = await self._node.blocking(disk_usage, upper)
            kept = (time.monotonic(), used, inodes)
            self._layers[container.id] = kept
            self._forget()
        return kept[1], kept[2]

    def _forget(self) -> None:
        """Drop what was kept of containers that nobody has asked about for long."""
        oldest = time.monotonic() - 60 * LAYER_AGE
        for container_id in [key for key, kept in self._layers.items() if kept[0] < oldest]:
            del self._layers[container_id]
            self._rates.pop(container_id, None)

    def _cpu(self, key: str, usage: Usage, moment: int) -> api_pb2.CpuUsage:
        before = self._rates.get(key)
        rate = before.nano_cores if before else 0
        if before is None or moment - before.when >= LEAST_INTERVAL:
            if before is not None and usage.cpu >= before.cpu:
                rate = (usage.cpu - before.cpu) * 1_000_000_000 // (moment - before.when)
            self._rates[key] = _Rate(moment, usage.cpu, rate)
        return api_pb2.CpuUsage(
            timestamp=moment,
            usage_core_nano_seconds=api_pb2.UInt64Value(value=usage.cpu),
            usage_nano_cores=api_pb2.UInt64Value(value=rate),
        )


def memory_usage(usage: Usage, moment: int) -> api_pb2.MemoryUsage:
    """Memory in CRI's words; `available` only where there is a limit."""
    memory = api_pb2.MemoryUsage(
        timestamp=moment,
        working_set_bytes=api_pb2.UInt64Value(value=usage.working_set),
        usage_bytes=api_pb2.UInt64Value(value=usage.memory),
        rss_bytes=api_pb2.UInt64Value(value=usage.rss),
        page_faults=api_pb2.UInt64Value(value=usage.page_faults),
        major_page_faults=api_pb2.UInt64Value(value=usage.major_page_faults),
    )
    if usage.memory_limit:
        memory.available_bytes.value = max(0, usage.memory_limit - usage.working_set)
    return memory


def _read_net_dev() -> str:
    with open("/proc/thread-self/net/dev") as file:
        return file.read()


def parse_net_dev(text: str) -> list[api_pb2.NetworkInterfaceUsage]:
    """/proc/net/dev without the loopback interface; proc_pid_net(5)."""
    found = []
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = rest.split()
        if name.strip() == "lo" or len(fields) < 11:
            continue
        found.append(
            api_pb2.NetworkInterfaceUsage(
                name=name.strip(),
                rx_bytes=api_pb2.UInt64Value(value=int(fields[0])),
                rx_errors=api_pb2.UInt64Value(value=int(fields[2])),
                tx_bytes=api_pb2.UInt64Value(value=int(fields[8])),
                tx_errors=api_pb2.UInt64Value(value=int(fields[10])),
            )
        )
    return found
