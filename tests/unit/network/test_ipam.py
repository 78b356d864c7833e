"""Addresses: each once, in turn, the same after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiphys.network.cni.ipam import AddressPool
from tiphys.network.cni.model import NetworkError, PortMapping


def test_in_turn_and_not_again_at_once(tmp_path: Path) -> None:
    pool = AddressPool(tmp_path, "10.244.1.0/29")
    assert [pool.allocate(name) for name in "abc"] == ["10.244.1.2", "10.244.1.3", "10.244.1.4"]
    assert pool.allocate("b") == "10.244.1.3"
    pool.release("a")
    assert [pool.allocate(name) for name in "de"] == ["10.244.1.5", "10.244.1.6"]
    assert pool.allocate("f") == "10.244.1.2"
    with pytest.raises(NetworkError, match="no IP addresses available"):
        pool.allocate("g")


def test_a_restart_knows_everything(tmp_path: Path) -> None:
    ports = (PortMapping("tcp", 80, 8080, "1.2.3.4"),)
    pool = AddressPool(tmp_path, "10.244.1.0/24")
    pool.allocate("a", "default/a", ports)
    pool.allocate("b")
    pool.release("b")
    (tmp_path / ".10.244.1.9").write_text("half writ")
    (tmp_path / "10.244.1.4").write_text("damaged")
    again = AddressPool(tmp_path, "10.244.1.0/24")
    assert [(each.pod, each.ports) for each in again.of("a")] == [("default/a", ports)]
    assert again.allocate("c") == "10.244.1.5"  # .3 rests, .4 is nobody's we know
    assert not (tmp_path / ".10.244.1.9").exists()


@pytest.mark.parametrize("cidr", ["10.244.1.0/31", "10.244.1.0/32"])
def test_too_small(tmp_path: Path, cidr: str) -> None:
    with pytest.raises(NetworkError, match="too small"):
        AddressPool(tmp_path, cidr)


def test_ipv6(tmp_path: Path) -> None:
    pool = AddressPool(tmp_path, "fd00:10:244:1::/64")
    assert (pool.allocate("a"), pool.gateway) == ("fd00:10:244:1::2", "fd00:10:244:1::1")
