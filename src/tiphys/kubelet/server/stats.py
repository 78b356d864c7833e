"""/stats/summary: what the node and its pods use, as metrics-server and others read it.

https://kubernetes.io/docs/reference/instrumentation/node-metrics/#summary-api-source. Containers are
measured by the runtime (CRI), the node from /proc; file systems by their own counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.cri import labels
from tiphys.kubelet.cri.state import RuntimePod
from tiphys.kubelet.node.machine import Machine, memory_available
from tiphys.machinery.time import format_time

Json = dict[str, Any]


def summary(
    node_name: str,
    machine: Machine,
    node_cpu: NodeCPU,
    root: Path,
    images: Path | None,
    pods: Sequence[cri.PodSandboxStats],
) -> Json:
    """The whole document. Reads /proc and file systems."""
    node = {
        "nodeName": node_name,
        "startTime": _boot_time(),
        "cpu": node_cpu.read(),
        "memory": _node_memory(machine),
        "network": _node_network(),
        "fs": file_system(root),
        "runtime": {"imageFs": file_system(images or root), "containerFs": file_system(images or root)},
        "rlimit": _rlimit(),
    }
    return {"node": node, "pods": [pod_stats(item) for item in pods]}


def pod_stats(item: cri.PodSandboxStats) -> Json:
    """One pod of the summary, without its volumes."""
    meta, linux = item.attributes.metadata, item.linux
    stats: Json = {
        "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "startTime": None,
        "containers": [container_stats(container) for container in linux.containers],
        "cpu": cpu(linux.cpu),
        "memory": memory(linux.memory),
        "volume": [],
        "process_stats": {"process_count": linux.process.process_count.value},
    }
    if linux.HasField("network"):
        stats["network"] = _network(linux.network)
    begun = [container["startTime"] for container in stats["containers"] if container.get("startTime")]
    stats["startTime"] = min(begun) if begun else format_time(datetime.now(UTC))
    return stats


def set_start_times(stats: Json, pod: RuntimePod) -> None:
    """Since when the pod and its containers run, which the runtime's measurements do not say."""
    if pod.sandbox is not None:
        stats["startTime"] = format_time(pod.sandbox.created_at)
    for container in stats["containers"]:
        current = pod.container(container["name"])
        if current is not None and current.started_at is not None:
            container["startTime"] = format_time(current.started_at)


def container_stats(item: cri.ContainerStats) -> Json:
    stats: Json = {
        "name": item.attributes.labels.get(labels.CONTAINER_NAME, item.attributes.metadata.name),
        "startTime": None,
        "cpu": cpu(item.cpu),
        "memory": memory(item.memory),
        "logs": {},
    }
    if item.HasField("writable_layer"):
        stats["rootfs"] = {
            "time": _moment(item.writable_layer.timestamp),
            "usedBytes": item.writable_layer.used_bytes.value,
            "inodesUsed": item.writable_layer.inodes_used.value,
        }
    stats["startTime"] = format_time(datetime.now(UTC))
    return stats


def cpu(usage: cri.CpuUsage) -> Json:
    return {
        "time": _moment(usage.timestamp),
        "usageNanoCores": usage.usage_nano_cores.value,
        "usageCoreNanoSeconds": usage.usage_core_nano_seconds.value,
    }


def memory(usage: cri.MemoryUsage) -> Json:
    document = {
        "time": _moment(usage.timestamp),
        "usageBytes": usage.usage_bytes.value,
        "workingSetBytes": usage.working_set_bytes.value,
        "rssBytes": usage.rss_bytes.value,
        "pageFaults": usage.page_faults.value,
        "majorPageFaults": usage.major_page_faults.value,
    }
    if usage.HasField("available_bytes"):
        document["availableBytes"] = usage.available_bytes.value
    return document


def _network(usage: cri.NetworkUsage) -> Json:
    interfaces = [_interface(item) for item in (usage.default_interface, *usage.interfaces)]
    return {"time": _moment(usage.timestamp), **interfaces[0], "interfaces": interfaces}


def _interface(item: cri.NetworkInterfaceUsage) -> Json:
    return {
        "name": item.name,
        "rxBytes": item.rx_bytes.value,
        "rxErrors": item.rx_errors.value,
        "txBytes": item.tx_bytes.value,
        "txErrors": item.tx_errors.value,
    }


def file_system(path: Path) -> Json:
    """How full the file system at a path is; nothing where there is none."""
    try:
        stat = os.statvfs(path)
    except OSError:
        return {}
    return {
        "time": format_time(datetime.now(UTC)),
        "availableBytes": stat.f_bavail * stat.f_frsize,
        "capacityBytes": stat.f_blocks * stat.f_frsize,
        "usedBytes": (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
        "inodesFree": stat.f_ffree,
        "inodes": stat.f_files,
        "inodesUsed": stat.f_files - stat.f_ffree,
    }


@dataclass(slots=True)
class NodeCPU:
    """Reads the node's CPU time; the rate is that since the reading before, at least a second ago."""

    at: float = 0.0
    total: int = 0
    rate: int = 0

    def read(self) -> Json:
        total, now = _cpu_nanoseconds(), time.monotonic()
        if self.at and now - self.at >= 1.0:
            self.rate = int((total - self.total) / (now - self.at))
        if not self.at or now - self.at >= 1.0:
            self.at, self.total = now, total
        return {
            "time": format_time(datetime.now(UTC)),
            "usageNanoCores": self.rate,
            "usageCoreNanoSeconds": total,
        }


def _cpu_nanoseconds() -> int:
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    ticks = sum(int(value) for index, value in enumerate(fields[:8]) if index not in (3, 4))  # but idle and iowait
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _node_memory(machine: Machine) -> Json:
    available = memory_available()
    used = machine.memory - available
    return {
        "time": format_time(datetime.now(UTC)),
        "availableBytes": available,
        "usageBytes": used,
        "workingSetBytes": used,
        "rssBytes": used,
        "pageFaults": 0,
        "majorPageFaults": 0,
    }


def _node_network() -> Json:
    interfaces = []
    for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
        name, _, counts = line.partition(":")
        values = [int(value) for value in counts.split()]
        if name.strip() != "lo":
            interfaces.append(
                {
                    "name": name.strip(),
                    "rxBytes": values[0],
                    "rxErrors": values[2],
                    "txBytes": values[8],
                    "txErrors": values[10],
                }
            )
    main: Json = dict(interfaces[0]) if interfaces else {"name": ""}
    return {"time": format_time(datetime.now(UTC)), **main, "interfaces": interfaces}


def _rlimit() -> Json:
    running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    limit = int(Path("/proc/sys/kernel/pid_max").read_text())
    return {"time": format_time(datetime.now(UTC)), "maxpid": limit, "curproc": running}


def _boot_time() -> str:
    up = float(Path("/proc/uptime").read_text().split()[0])
    return format_time(datetime.fromtimestamp(time.time() - up, UTC))


def _moment(nanoseconds: int) -> str:
    return format_time(datetime.fromtimestamp(nanoseconds / 1e9, UTC) if nanoseconds else datetime.now(UTC))
