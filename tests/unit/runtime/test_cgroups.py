"""Control groups read from recorded trees of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiphys.runtime.cgroups import Cgroups, Usage

V1 = {
    "cpuacct/pod/c/cpuacct.usage": "123456789",
    "memory/pod/c/memory.usage_in_bytes": "5000000",
    "memory/pod/c/memory.limit_in_bytes": "67108864",
    "memory/pod/c/memory.stat": "cache 1\ntotal_rss 3000000\ntotal_inactive_file 1000000\n"
    "total_pgfault 7\ntotal_pgmajfault 2\n",
    "memory/pod/c/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    "memory/pod/c/cgroup.procs": "10\n11\n",
    "memory/pod/c/sub/cgroup.procs": "12\n",
    "pids/pod/c/pids.current": "3",
    "pids/pod/c/cgroup.procs": "10\n11\n",
}
V2 = {
    "cgroup.controllers": "cpu memory pids",
    "pod/c/cpu.stat": "usage_usec 123456\nuser_usec 1\n",
    "pod/c/memory.current": "5000000",
    "pod/c/memory.max": "67108864",
    "pod/c/memory.swap.current": "4096",
    "pod/c/memory.swap.max": "max",
    "pod/c/memory.stat": "anon 3000000\ninactive_file 1000000\npgfault 7\npgmajfault 2\n",
    "pod/c/memory.events": "low 0\noom 4\noom_kill 3\n",
    "pod/c/cgroup.procs": "10\n11\n",
    "pod/c/sub/cgroup.procs": "12\n",
    "pod/c/pids.current": "3",
}
COMMON = {
    "memory": 5_000_000,
    "working_set": 4_000_000,
    "rss": 3_000_000,
    "memory_limit": 67_108_864,
    "page_faults": 7,
    "major_page_faults": 2,
    "processes": 3,
}


def tree(root: Path, files: dict[str, str]) -> Cgroups:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Cgroups(root)


@pytest.mark.parametrize(
    ("files", "usage"),
    [
        pytest.param(V1, Usage(cpu=123_456_789, **COMMON), id="version 1"),
        pytest.param(V2, Usage(cpu=123_456_000, swap=4096, **COMMON), id="version 2"),
    ],
)
def test_reading(tmp_path: Path, files: dict[str, str], usage: Usage) -> None:
    groups = tree(tmp_path, files)
    assert groups.unified == ("cgroup.controllers" in files)
    assert groups.usage("/pod/c") == usage
    assert groups.oom_kills("/pod/c") == 3
    assert groups.processes("/pod/c") == [10, 11, 12]
    assert groups.usage("/gone") is None
    assert groups.oom_kills("/gone") == 0


def test_no_limit_is_told_as_none(tmp_path: Path) -> None:
    v1 = tree(tmp_path / "1", {**V1, "memory/pod/c/memory.limit_in_bytes": "9223372036854771712"}).usage("/pod/c")
    v2 = tree(tmp_path / "2", {**V2, "pod/c/memory.max": "max"}).usage("/pod/c")
    assert v1 is not None
    assert v2 is not None
    assert (v1.memory_limit, v2.memory_limit) == (0, 0)


def test_the_root_is_never_removed(tmp_path: Path) -> None:
    groups = tree(tmp_path, {"cgroup.controllers": ""})
    (tmp_path / "pod/c").mkdir(parents=True)
    groups.remove("/")
    assert (tmp_path / "pod/c").is_dir()
    groups.remove("/pod")
    assert not (tmp_path / "pod").exists()
