"""The resource managers of a configuration: what is kept back for the system, which policies are in force."""

from __future__ import annotations

from collections.abc import Mapping

from tiphys.base.clock import Clock
from tiphys.kubelet.config import ConfigError, KubeletConfiguration
from tiphys.kubelet.containermanager import ContainerManager
from tiphys.kubelet.cpumanager.manager import CPUManager
from tiphys.kubelet.devices.manager import DeviceManager
from tiphys.kubelet.memorymanager.manager import MemoryManager
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.topology.cpuset import parse
from tiphys.kubelet.topology.machine import CPUTopology
from tiphys.kubelet.topology.policy import make_policy
from tiphys.machinery.quantity import Quantity


def make_container_manager(
    config: KubeletConfiguration, paths: Paths, topology: CPUTopology, capacity: Mapping[str, str], clock: Clock
) -> ContainerManager:
    """The parts for this machine. Raises ConfigError for what cannot be used on it. Reads and writes files."""
    policies = (config.cpu_manager_policy, config.memory_manager_policy, config.topology_manager_policy)
    try:
        cpus = CPUManager(
            paths.root,
            topology,
            policy=config.cpu_manager_policy,
            options=config.cpu_manager_policy_options,
            reserved=reserved_cpus(config),
        )
        memory = MemoryManager(
            paths.root,
            topology,
            policy=config.memory_manager_policy,
            reserved=config.reserved_memory,
            reserved_in_all=reserved_memory(config, capacity),
        )
        policy = make_policy(
            config.topology_manager_policy,
            config.topology_manager_scope,
            config.topology_manager_policy_options,
            topology.nodes,
            topology.distances,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"resource managers {', '.join(policies)}: {error}") from error
    return ContainerManager(DeviceManager(paths.device_plugins, clock), cpus, memory, policy, clock)


def reserved_cpus(config: KubeletConfiguration) -> frozenset[int] | int:
    """The CPUs for the system by number, or how many: reservations rounded up."""
    if config.reserved_system_cpus:
        return parse(config.reserved_system_cpus)
    milli = sum(
        Quantity.parse(reserved["cpu"]).milli_value()
        for reserved in (config.system_reserved, config.kube_reserved)
        if "cpu" in reserved
    )
    return -(-milli // 1000)


def reserved_memory(config: KubeletConfiguration, capacity: Mapping[str, str]) -> int:
    """Bytes that pods do not get: the reservations and what eviction keeps free."""
    total = sum(
        Quantity.parse(reserved["memory"]).value()
        for reserved in (config.system_reserved, config.kube_reserved)
        if "memory" in reserved
    )
    threshold = config.eviction_hard.get("memory.available", "0")
    if threshold.endswith("%"):
        return total + int(Quantity.parse(capacity["memory"]).value() * float(threshold[:-1]) / 100)
    return total + Quantity.parse(threshold).value()
