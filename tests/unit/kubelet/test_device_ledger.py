"""The device manager's books: what may be given, what is chosen, what is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiphys.api.deviceplugin import api_pb2 as plugin
from tiphys.kubelet.devices import checkpoint
from tiphys.kubelet.devices.ledger import AllocationError, Device, Holding, Ledger, choose
from tiphys.kubelet.pod import PodUID

FROB = "vendor.example/frob"


def devices(**nodes: int) -> dict[str, Device]:
    """Well devices by name, each on its NUMA node."""
    return {name: Device(name, True, frozenset({node})) for name, node in nodes.items()}


def ledger(**nodes: int) -> Ledger:
    found = Ledger()
    found.devices[FROB] = devices(**nodes)
    return found


def held(*names: str) -> Holding:
    return Holding(frozenset(names), plugin.ContainerAllocateResponse(envs={"A": "b"}), {names[0]: frozenset({1})})


@pytest.mark.parametrize(
    ("free", "reusable", "preferred", "count", "affinity", "chosen"),
    [
        ("abcd", "", (), 2, None, "ab"),
        ("abcd", "d", (), 2, None, "ad"),
        ("abcd", "", ("d", "c"), 2, None, "cd"),
        ("abcd", "", ("z", "d"), 2, None, "ad"),
        ("abcd", "", (), 2, {1}, "cd"),
        ("abcd", "", (), 3, {1}, "acd"),
        ("abcd", "a", (), 2, {1}, "ac"),
        ("ab", "ab", (), 1, None, "a"),
    ],
)
def test_choose(
    free: str, reusable: str, preferred: tuple[str, ...], count: int, affinity: set[int] | None, chosen: str
) -> None:
    near = None if affinity is None else frozenset(affinity)
    found = choose(devices(a=0, b=0, c=1, d=1), frozenset(free), frozenset(reusable), preferred, count, near)
    assert found == set(chosen)


def test_what_is_held_is_not_given_until_its_pod_is_gone() -> None:
    books = ledger(a=0, b=0)
    books.hold(PodUID("p"), "app", FROB, held("a"))
    assert books.available(FROB) == {"b"}
    assert books.available(FROB, frozenset({"a"})) == {"a", "b"}
    with pytest.raises(AllocationError, match=r"unavailable for vendor.example/frob. Requested: 2, Available: 1"):
        books.check(FROB, 2, frozenset())
    assert not books.keep_only({PodUID("p")})
    assert books.keep_only({PodUID("q")})
    assert books.available(FROB) == {"a", "b"}


def test_ill_devices_count_as_capacity_and_are_not_given() -> None:
    books = ledger(a=0)
    books.devices[FROB]["b"] = Device("b", healthy=False)
    assert books.amounts(FROB) == (2, 1)
    books.devices[FROB]["a"] = Device("a", healthy=False)
    with pytest.raises(AllocationError, match="no healthy devices present"):
        books.check(FROB, 1, frozenset())


def test_a_checkpoint_brings_back_who_has_what(tmp_path: Path) -> None:
    books = ledger(a=0, b=1)
    books.hold(PodUID("p"), "app", FROB, held("a", "b"))
    checkpoint.save(tmp_path / "c", books)
    found = checkpoint.load(tmp_path / "c")
    assert found.held(PodUID("p"), "app", FROB) == Holding(
        frozenset("ab"), held("a").response, {"a": frozenset({1}), "b": frozenset()}
    )
    assert found.amounts(FROB) == (2, 0)  # until the plugin is back


@pytest.mark.parametrize("text", ["", "{", "[]", '{"Data": {}, "Checksum": 0}', '{"Data": 1, "Checksum": 2}'])
def test_a_damaged_checkpoint_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "c").write_text(text)
    assert checkpoint.load(tmp_path / "c").holdings == {}
    assert checkpoint.load(tmp_path / "absent").devices == {}
