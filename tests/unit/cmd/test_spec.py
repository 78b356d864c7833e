"""A cluster's description: its addresses, its nodes, and what is said of a broken one."""

from pathlib import Path

import pytest

from tiphys.cmd.cluster.spec import ClusterSpec, NodeSpec, load, save
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
