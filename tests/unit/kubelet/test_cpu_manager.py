"""Which CPUs are taken, who keeps them, and what is remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.kubelet.builders import make_pod
from tiphys.api.core.v1 import Pod
from tiphys.kubelet.cpumanager.assignment import NotEnoughCPUs, Taker
from tiphys.kubelet.cpumanager.manager import CPUManager, CPUManagerError, SMTAlignmentError
from tiphys.kubelet.pod import PodUID
from tiphys.kubelet.topology.cpuset import parse, show
from tiphys.kubelet.topology.hints import Hint
from tiphys.kubelet.topology.machine import CPU, CPUTopology

# Two sockets, a NUMA node each; cores of two threads: cpu n and n + 8 are core n.
#   socket 0: cores 0 1 2 3   socket 1: cores 4 5 6 7
TWO = CPUTopology({cpu: CPU(cpu, cpu % 8, cpu % 8 // 4, cpu % 8 // 4, cpu % 8 // 2) for cpu in range(16)})


@pytest.mark.parametrize(
    ("free", "count", "options", "taken"),
    [
        ("0-15", 1, (), "0"),
        ("0-15", 2, (), "0,8"),
        ("0-15", 3, (), "0-1,8"),
        ("0-15", 8, (), "0-3,8-11"),
        ("0-15", 16, (), "0-15"),
        # what is begun is filled up first
        ("1-15", 1, (), "8"),
        ("1-7,9-15", 2, (), "1,9"),
        ("1-15", 8, (), "4-7,12-15"),
        ("3-15", 2, (), "3,11"),
        ("0-15", 4, ("distribute-cpus-across-cores",), "0-3"),
        ("0-15", 12, ("distribute-cpus-across-numa",), "0-2,4-6,8-10,12-14"),
        ("0-15", 6, ("distribute-cpus-across-numa",), "0-2,8-10"),
        ("1-15", 4, ("prefer-align-cpus-by-uncorecache",), "2-3,10-11"),
    ],
)
def test_take(free: str, count: int, options: tuple[str, ...], taken: str) -> None:
    assert show(Taker(TWO, frozenset(options)).take(parse(free), count)) == taken


@given(st.frozensets(st.integers(0, 15), min_size=1), st.data())
def test_as_many_as_asked_for_and_only_free_ones(free: frozenset[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(free)))
    options = data.draw(
        st.sets(
            st.sampled_from(
                ("distribute-cpus-across-numa", "distribute-cpus-across-cores", "prefer-align-cpus-by-uncorecache")
            )
        )
    )
    taken = Taker(TWO, frozenset(options)).take(free, count)
    assert taken <= free and len(taken) == count


def test_too_few() -> None:
    with pytest.raises(NotEnoughCPUs, match="requested=2, available=1"):
        Taker(TWO).take(frozenset({3}), 2)


def guaranteed(uid: str, *cpus: str, init: tuple[str, ...] = ()) -> Pod:
    def container(name: str, cpu: str) -> dict[str, Any]:
        amounts = {"cpu": cpu, "memory": "1Mi"}
        return {"name": name, "image": "i", "resources": {"requests": amounts, "limits": amounts}}

    return make_pod(
        *(container(f"c{number}", cpu) for number, cpu in enumerate(cpus)),
        init=tuple(container(f"i{number}", cpu) for number, cpu in enumerate(init)),
        metadata={"name": uid, "uid": uid},
    )


def manager(directory: Path, **settings: Any) -> CPUManager:
    return CPUManager(directory, TWO, **{"policy": "static", "reserved": frozenset({0}), **settings})


def give(cpus: CPUManager, pod: Pod, *active: str, affinity: frozenset[int] | None = None) -> list[str]:
    containers = (*pod.spec.init_containers, *pod.spec.containers)
    for container in containers:
        cpus.allocate(pod, container, [PodUID(uid) for uid in active], affinity)
    return [show(cpus.exclusive(PodUID(pod.metadata.uid), container.name)) for container in containers]


def test_whole_cpus_of_guaranteed_pods_are_their_own(tmp_path: Path) -> None:
    cpus = manager(tmp_path)
    assert give(cpus, guaranteed("a", "2", "500m")) == ["1,9", ""]
    assert (cpus.cpuset(PodUID("a"), "c0"), cpus.cpuset(PodUID("a"), "c1")) == ("1,9", "0,2-8,10-15")
    assert give(cpus, guaranteed("b", "1"), "a") == ["8"]  # beside the reserved one
    assert cpus.release(PodUID("a"))
    assert show(cpus.shared) == "0-7,9-15"


def test_init_containers_cpus_are_used_again(tmp_path: Path) -> None:
    assert give(manager(tmp_path), guaranteed("a", "4", init=("2",))) == ["1,9", "1-2,9-10"]


def test_near_cpus_first(tmp_path: Path) -> None:
    assert give(manager(tmp_path), guaranteed("a", "2"), affinity=frozenset({1})) == ["4,12"]


def test_hints(tmp_path: Path) -> None:
    cpus = manager(tmp_path)
    (container,) = guaranteed("a", "8").spec.containers
    # Node 0 could hold eight, but one of its CPUs is the system's.
    assert cpus.hints(guaranteed("a", "8"), container) == [
        Hint(frozenset({1}), True),
        Hint(frozenset({0, 1}), False),
    ]
    assert cpus.hints(guaranteed("a", "500m"), guaranteed("a", "500m").spec.containers[0]) is None


@pytest.mark.parametrize(
    ("count", "said"),
    [
        ("3", "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2"),
        (
            "16",
            (
                "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 14, "
                "requested CPUs = 16, CPUs per core = 2"
            ),
        ),
    ],
)
def test_whole_cores_only(tmp_path: Path, count: str, said: str) -> None:
    cpus = manager(tmp_path, options={"full-pcpus-only": "true"})
    with pytest.raises(SMTAlignmentError) as caught:
        give(cpus, guaranteed("a", count))
    assert str(caught.value) == said


def test_what_was_given_is_remembered(tmp_path: Path) -> None:
    give(manager(tmp_path), guaranteed("a", "2"))
    document = json.loads((tmp_path / "cpu_manager_state").read_text())
    assert {key: document[key] for key in ("policyName", "defaultCpuSet", "entries")} == {
        "policyName": "static",
        "defaultCpuSet": "0,2-8,10-15",
        "entries": {"a": {"c0": "1,9"}},
    }
    again = manager(tmp_path)
    assert show(again.exclusive(PodUID("a"), "c0")) == "1,9"
    assert give(again, guaranteed("b", "2")) == ["1,9"]  # a is not active any more


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"policy": "none"}, 'configured policy "none" differs from state checkpoint policy "static"'),
        ({"reserved": frozenset({1})}, "doesn't match with CPUs in state"),
        ({"policy": "odd"}, 'unknown policy: "odd"'),
        ({"reserved": 0}, "the static policy requires systemreserved.cpu"),
        ({"options": {"odd": "true"}}, 'unsupported cpumanager option: "odd"'),
    ],
)
def test_what_does_not_fit_stops_the_kubelet(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    give(manager(tmp_path), guaranteed("a", "2"))
    with pytest.raises(CPUManagerError, match=said):
        manager(tmp_path, **settings)


def test_a_strict_reservation_is_nobodys(tmp_path: Path) -> None:
    assert show(manager(tmp_path, options={"strict-cpu-reservation": "true"}).shared) == "1-15"
