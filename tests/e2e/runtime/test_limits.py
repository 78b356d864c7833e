"""Limits on real processes: on this machine, and under cgroup version 2 in a machine of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e import vm
from tests.e2e.runtime.limits import Measured, measure

pytestmark = pytest.mark.root
SECONDS = float(os.environ.get("TIPHYS_TEST_MEASURE_SECONDS", "2"))


def judge(found: Measured) -> None:
    """A busy neighbour takes from a share, never from a limit: those are upper bounds."""
    assert 0.1 < found.half_a_core < 0.56
    assert found.resized < 0.26 and found.resized < found.half_a_core
    assert 2.0 < found.share < 4.0
    assert tuple(found.out_of_memory) == (137, "OOMKilled")
    assert found.children == 12
    assert found.pod_memory == str(64 << 20)
    assert found.left == []


async def test_limits_hold() -> None:
    judge(await measure(SECONDS))


@pytest.mark.slow
def test_limits_hold_under_cgroup_version_2(tmp_path: Path) -> None:
    """The same in a kernel of Debian's under qemu."""
    machine = vm.Machine(programs=("runc", "conmon"), packages=("grpcio",))
    if missing := machine.missing():
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    found = Measured(**vm.run(machine, "tests.e2e.runtime.limits", tmp_path, TIPHYS_TEST_MEASURE_SECONDS=str(SECONDS)))
    assert found.unified
    judge(found)
