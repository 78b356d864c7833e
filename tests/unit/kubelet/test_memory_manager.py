"""Whose memory lies where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kubelet.test_cpu_manager import guaranteed
from tiphys.api.core.v1 import Pod
from tiphys.kubelet.memorymanager.manager import MemoryManager, MemoryManagerError, NotEnoughMemory
from tiphys.kubelet.pod import PodUID
from tiphys.kubelet.topology.hints import Hint
from tiphys.kubelet.topology.machine import CPU, CPUTopology

MB = 1 << 20
# Two nodes of 100 MB, 20 of them kept back on the first.
TWO = CPUTopology({0: CPU(0, 0, 0, 0), 1: CPU(1, 1, 1, 1)}, {0: {"memory": 100 * MB}, 1: {"memory": 100 * MB}})
RESERVED = [{"numaNode": 0, "limits": {"memory": "20Mi"}}]


def manager(directory: Path, **settings: Any) -> MemoryManager:
    given = {"policy": "Static", "reserved": RESERVED, "reserved_in_all": 20 * MB, **settings}
    return MemoryManager(directory, TWO, **given)


def asking(uid: str, megabytes: int) -> Pod:
    pod = guaranteed(uid, "1")
    for container in pod.spec.containers:
        assert container.resources is not None
        for amounts in (container.resources.limits, container.resources.requests):
            amounts["memory"] = f"{megabytes}Mi"  # type: ignore[index]
    return pod


def give(memory: MemoryManager, pod: Pod, *active: str, affinity: frozenset[int] | None = None) -> str:
    memory.allocate(pod, pod.spec.containers[0], [PodUID(uid) for uid in active], affinity)
    return memory.mems(PodUID(pod.metadata.uid), "c0")


def test_as_few_nodes_as_hold_it(tmp_path: Path) -> None:
    memory = manager(tmp_path)
    assert give(memory, asking("a", 50)) == "0"
    assert give(memory, asking("b", 50), "a") == "1"
    assert give(memory, asking("c", 30), "a", "b") == "0"
    with pytest.raises(NotEnoughMemory, match="no NUMA nodes with enough memory is available"):
        give(memory, asking("d", 60), "a", "b", "c")
    memory.release(PodUID("b"))
    assert give(memory, asking("d", 60), "a", "c") == "1"


def test_a_group_is_not_broken_up(tmp_path: Path) -> None:
    memory = manager(tmp_path)
    assert give(memory, asking("a", 150)) == "0-1"
    with pytest.raises(NotEnoughMemory):
        give(memory, asking("b", 40), "a")
    assert give(memory, asking("b", 30), "a", affinity=frozenset({0})) == "0-1"


def test_hints(tmp_path: Path) -> None:
    pod = asking("a", 90)
    found = manager(tmp_path).hints(pod, pod.spec.containers[0])
    assert found == {"memory": [Hint(frozenset({1}), True), Hint(frozenset({0, 1}), False)]}


def test_others_are_left_to_the_kernel(tmp_path: Path) -> None:
    assert give(manager(tmp_path, policy="None"), asking("a", 10)) == ""


def test_what_was_given_is_remembered(tmp_path: Path) -> None:
    give(manager(tmp_path), asking("a", 50))
    document = json.loads((tmp_path / "memory_manager_state").read_text())
    assert document["entries"] == {"a": {"c0": [{"numaAffinity": [0], "type": "memory", "size": 50 * MB}]}}
    assert manager(tmp_path).mems(PodUID("a"), "c0") == "0"
    with pytest.raises(MemoryManagerError, match='configured policy "None" differs'):
        manager(tmp_path, policy="None")


def test_the_reservation_has_to_add_up(tmp_path: Path) -> None:
    with pytest.raises(MemoryManagerError, match='total amount "20971520" of type "memory" is not equal'):
        manager(tmp_path, reserved_in_all=1)
