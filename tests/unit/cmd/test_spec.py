"""A cluster's description: its addresses, its nodes, and what is said of a broken one."""

from pathlib import Path

import pytest

from tiphys.cmd.cluster.spec import ClusterSpec, NodeSpec, check_ranges, load, save
from tiphys.cmd.errors import CommandError, UsageError

SPEC = ClusterSpec(name="dev", subnet="172.30.4.0/24", nodes=(NodeSpec("dev-1", 1), NodeSpec("dev-3", 3)))


def test_addresses_follow_from_ranges_and_indexes() -> None:
    assert SPEC.bridge_address() == "172.30.4.1"
    assert [SPEC.node_address(node) for node in SPEC.nodes] == ["172.30.4.2", "172.30.4.4"]
    assert SPEC.dns_address == "10.96.0.10"


def test_a_new_node_takes_the_first_free_index() -> None:
    changed, node = SPEC.with_node("dev-x")
    assert node == NodeSpec("dev-x", 2)
    assert changed.without_node("dev-1").nodes == (NodeSpec("dev-3", 3), node)


@pytest.mark.parametrize(
    ("name", "message"), [("dev-1", "exists already"), ("Bad_Name", "is not a node name"), ("", "is not a node name")]
)
def test_node_names_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SPEC.with_node(name)


def test_a_node_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r'no node "x" in cluster "dev" \(nodes: dev-1, dev-3\)'):
        SPEC.node("x")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(SPEC, tmp_path / "cluster.json")
    assert load(tmp_path / "cluster.json") == SPEC
    assert load(tmp_path / "nothing.json") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 1, "colour": "red"}', '{"nodes": [{"x": 1}]}'])
def test_a_broken_file_is_named_and_the_way_out_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(text)
    with pytest.raises(CommandError, match=r"cluster\.json is not a cluster's description .*--purge"):
        load(path)


def test_a_cluster_of_two_families_has_an_address_of_each() -> None:
    spec = ClusterSpec(
        name="x", subnet="172.30.4.0/24", pod_cidr="fd00:1::/56,10.244.0.0/16", service_cidr="fd00:2::/112,10.96.0.0/16"
    )
    spec, node = spec.with_node("x-1")
    assert spec.families == (6, 4)
    assert spec.node_addresses(node) == ("fd74:7068:ac:1e04::2", "172.30.4.2")
    assert spec.dns_address == "fd00:2::a"


@pytest.mark.parametrize(
    ("pods", "services", "message"),
    [
        ("10.244.0.0/16", "10.96.0.0/16", ""),
        ("fd00:1::/56", "fd00:2::/112", ""),
        ("10.244.0.0/16,fd00:1::/56", "10.96.0.0/16,fd00:2::/112", ""),
        ("10.244.0.0/16", "10.96.0.0/16,fd00:2::/112", "the same families in the same order"),
        ("fd00:1::/56,10.244.0.0/16", "10.96.0.0/16,fd00:2::/112", "the same families in the same order"),
        ("10.244.0.0/16,10.245.0.0/16", "10.96.0.0/16", "one range of each family"),
        ("10.244.0.0/16", "10.244.128.0/17", "overlap"),
        ("10.244.0.0/25", "10.96.0.0/16", "is too small"),
        ("fd00:1::/40", "fd00:2::/112", "is too large"),
        ("10.244.0.0/16", "fd00:2::/64", "is too large"),
        ("10.244.0.1/16", "10.96.0.0/16", "has host bits set"),
        ("word", "10.96.0.0/16", "--pod-cidr"),
        ("172.30.0.0/16", "10.96.0.0/16", "of which the nodes have their addresses"),
    ],
)
def test_ranges_are_checked_before_anything_starts(pods: str, services: str, message: str) -> None:
    if not message:
        check_ranges(pods, services)
        return
    with pytest.raises(UsageError, match=message):
        check_ranges(pods, services)
