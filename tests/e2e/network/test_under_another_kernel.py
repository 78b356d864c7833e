"""What this machine's kernel may not have, IPVS and IP-in-IP, in Debian's kernel under qemu."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from tests.e2e import vm

pytestmark = [pytest.mark.root, pytest.mark.slow]
PRODUCT = tuple(each.partition("==")[0] for each in metadata.requires("tiphys") or () if "extra" not in each)
MACHINE = vm.Machine(
    programs=("ip", "sysctl", "bridge", "nft", "conntrack"),
    packages=("pytest", "setproctitle"),
    modules=("veth", "bridge", "br_netfilter", "nf_conntrack_netlink", "nf_tables"),
    loadable=(*vm.PROXY_MODULES, "ipip"),
)


@pytest.mark.parametrize(
    ("what", "file", "at_least"),
    [
        pytest.param("ipvs", "tests/e2e/proxy/test_service_packets.py", 12, id="ipvs-packets"),
        pytest.param("ipvs", "tests/e2e/proxy/test_proxy_follows.py", 8, id="ipvs-follows"),
        pytest.param("ipvs", "tests/e2e/proxy/test_ipvs.py", 10, id="ipvs-alone"),
        pytest.param("ipvs", "tests/e2e/proxy/test_affinity_of_ipv6.py", 1, id="ipvs-ipv6"),
        pytest.param("ipvs", "tests/e2e/network/test_leaving.py", 1, id="ipvs-leaving"),
        pytest.param("ipip", "tests/e2e/network/test_backends_packets.py", 3, id="ipip"),
    ],
)
def test_it_works_there(what: str, file: str, at_least: int, tmp_path: Path) -> None:
    if missing := MACHINE.missing():
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    asked = {"TIPHYS_TEST_WHICH": what, "TIPHYS_TEST_FILE": file}
    found = vm.run(MACHINE, "tests.e2e.pytest_in_vm", tmp_path, **asked)["outcomes"]
    assert {name: outcome for name, outcome in found.items() if outcome != "passed"} == {}
    assert len(found) >= at_least


def test_a_cluster_of_ipvs_and_ipip_comes_up_answers_and_goes(tmp_path: Path) -> None:
    machine = replace(
        MACHINE,
        programs=(*MACHINE.programs, "runc", "conmon"),
        packages=(*MACHINE.packages, *PRODUCT),
    )
    if missing := machine.missing():
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    flags = "--nodes=2,--proxy-mode=ipvs,--network=ipip"
    program = "tests.e2e.network.whole_cluster"
    found = vm.run(machine, program, tmp_path, memory=4096, patience=900.0, TIPHYS_TEST_FLAGS=flags)
    assert (found["up"], found["demo"], found["down"]) == (0, 0, 0)
    assert found["answers"] == 2
    assert found["meddled"] == []  # also without /etc/protocols, which is not in this machine
    assert "-> " in found["servers"]
    assert "ipip" in found["links"]
    assert found["left"] == []
