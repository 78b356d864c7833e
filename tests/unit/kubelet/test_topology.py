"""Sets of CPUs, the machine as /sys shows it, hints and what policies make of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiphys.kubelet.topology.cpuset import parse, show
from tiphys.kubelet.topology.hints import Hint, hints_of, merge
from tiphys.kubelet.topology.machine import read_topology
from tiphys.kubelet.topology.policy import PolicyError, TopologyPolicy, make_policy

BOTH = frozenset({0, 1})


@given(st.frozensets(st.integers(0, 300)))
def test_a_set_is_read_as_it_was_written(cpus: frozenset[int]) -> None:
    assert parse(show(cpus)) == cpus


def test_sets_are_written_as_the_kernel_does() -> None:
    assert show({0, 1, 2, 5, 7, 8}) == "0-2,5,7-8"
    assert parse("0-2, 5\n") == {0, 1, 2, 5}
    for wrong in ("3-1", "a", "1-"):
        with pytest.raises(ValueError):
            parse(wrong)


def test_the_machine_is_read(tmp_path: Path) -> None:
    def put(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    put("cpu/online", "0-3\n")
    for cpu, (socket, core) in enumerate([(0, 0), (1, 0), (0, 0), (1, 0)]):
        put(f"cpu/cpu{cpu}/topology/physical_package_id", str(socket))
        put(f"cpu/cpu{cpu}/topology/core_id", str(core))
    for node, cpus in ((0, "0,2"), (1, "1,3")):
        put(f"node/node{node}/cpulist", cpus)
        put(f"node/node{node}/meminfo", f"Node {node} MemTotal:  8192 kB\n")
        put(f"node/node{node}/distance", "10 20" if node == 0 else "20 10")
        put(f"node/node{node}/hugepages/hugepages-2048kB/nr_hugepages", "1")
    found = read_topology(0, tmp_path)
    assert [(cpu.core, cpu.socket, cpu.node) for cpu in found.cpus.values()] == [
        (0, 0, 0),
        (1, 1, 1),
        (0, 0, 0),
        (1, 1, 1),
    ]
    assert found.threads_per_core == 2
    assert found.memory[0] == {"memory": 6 << 20, "hugepages-2Mi": 2 << 20}
    assert found.distances[1] == (20, 10)


def test_a_machine_that_tells_nothing_is_one_node(tmp_path: Path) -> None:
    found = read_topology(5, tmp_path)
    assert (found.all, found.nodes, found.memory) == ({0}, {0}, {0: {"memory": 5}})


def hint(*nodes: int, preferred: bool = True) -> Hint:
    return Hint(frozenset(nodes), preferred)


ANYWHERE = Hint(None, True)
WIDE = hint(0, 1, preferred=False)


@pytest.mark.parametrize(
    ("resources", "agreed"),
    [
        ([[hint(0), hint(1), WIDE]], hint(0)),
        ([[hint(0), hint(1), WIDE], [hint(1), WIDE]], hint(1)),
        ([[hint(0), WIDE], [hint(1), WIDE]], hint(0, preferred=False)),
        ([[hint(0)], [hint(1)]], Hint(BOTH, False)),
        ([[hint(0), WIDE], [ANYWHERE]], hint(0)),
        ([[hint(0), WIDE], []], hint(0, preferred=False)),
        ([[hint(0, 1)], [hint(0, 1)]], hint(0, 1)),
        ([[ANYWHERE]], Hint(BOTH, True)),
    ],
)
def test_merge(resources: list[list[Hint]], agreed: Hint) -> None:
    assert merge(resources, BOTH) == agreed


def test_close_nodes_are_preferred_where_distances_count() -> None:
    nodes = frozenset({0, 1, 2})
    pairs = [hint(0, 1), hint(0, 2), hint(1, 2)]
    distances = {0: (10, 30, 11), 1: (30, 10, 30), 2: (11, 30, 10)}
    assert merge([pairs], nodes) == hint(0, 1)
    assert merge([pairs], nodes, distances) == hint(0, 2)


def test_hints_prefer_what_is_as_narrow_as_it_ever_could_be() -> None:
    free = {0: 1, 1: 3}
    found = hints_of(BOTH, lambda nodes: 4 * len(nodes) >= 2, lambda nodes: sum(free[n] for n in nodes) >= 2)
    assert found == [hint(1), WIDE]


@pytest.mark.parametrize(
    ("name", "resources", "decision"),
    [
        ("none", [[hint(1)]], (None, True)),
        ("best-effort", [[hint(1)]], ({1}, True)),
        ("best-effort", [[hint(0)], [hint(1)]], (None, True)),
        ("restricted", [[hint(0)], [hint(1)]], (None, False)),
        ("restricted", [[hint(0, 1)]], (None, True)),
        ("single-numa-node", [[hint(0, 1)]], (None, False)),
        ("single-numa-node", [[hint(1), WIDE]], ({1}, True)),
        ("single-numa-node", [], (None, True)),
    ],
)
def test_policies(name: str, resources: list[list[Hint]], decision: tuple[set[int] | None, bool]) -> None:
    assert TopologyPolicy(name=name, nodes=BOTH).decide(resources) == decision


@pytest.mark.parametrize(
    ("name", "scope", "options", "nodes", "said"),
    [
        ("odd", "pod", {}, 1, 'unknown policy: "odd"'),
        ("none", "odd", {}, 1, 'unknown scope: "odd"'),
        ("none", "pod", {"odd": "1"}, 1, 'unknown Topology Manager Policy option: "odd"'),
        ("restricted", "pod", {}, 9, "unsupported on machines with more than 8 NUMA Nodes"),
    ],
)
def test_what_cannot_be_configured(name: str, scope: str, options: dict[str, str], nodes: int, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        make_policy(name, scope, options, frozenset(range(nodes)), {})
