"""The OCI specification from CRI's words: tables of rules, nothing run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiphys.api.cri import api_pb2 as cri
from tiphys.runtime.images.config import ImageConfig
from tiphys.runtime.signals import from_cri, signal_number, to_cri
from tiphys.runtime.spec import seccomp
from tiphys.runtime.spec.build import Machine, SpecError, SpecRequest, build, command_line
from tiphys.runtime.spec.capabilities import DEFAULT, NAMES, effective, normalise
from tiphys.runtime.spec.mounts import combine, mount_of, propagation_error
from tiphys.runtime.spec.resources import merge, oci_resources
from tiphys.runtime.spec.users import User, UserNotFound, group_entries, passwd_entries, resolve

MACHINE = Machine(
    capabilities=frozenset(NAMES) - {"CAP_SYS_RESOURCE"},
    unified_cgroups=False,
    swap_accounting=False,
    least_oom_score_adj=0,
    seccomp_profiles=Path("/nowhere"),
)
IMAGE = ImageConfig(entrypoint=("/entry",), cmd=("default",), env=("PATH=/bin", "A=image"), working_dir="/work")


def spec(edit: Callable[[cri.ContainerConfig], None] | None = None, machine: Machine = MACHINE) -> dict[str, Any]:
    config = cri.ContainerConfig(metadata=cri.ContainerMetadata(name="c"))
    if edit:
        edit(config)
    return build(
        SpecRequest(
            container_id="id",
            config=config,
            sandbox_id="sandbox",
            sandbox=cri.PodSandboxConfig(),
            image=IMAGE,
            user=User(5, 6, (6, 7), "/home/x"),
            hostname="host",
            rootfs=Path("/rootfs"),
            namespaces={"mount": "", "pid": "", "network": "/pins/net"},
            mounts=[],
            cgroup="/parent/id",
            machine=machine,
        )
    )


def test_defaults() -> None:
    made = spec()
    process = made["process"]
    assert process["args"] == ["/entry", "default"]
    assert process["env"] == ["PATH=/bin", "HOSTNAME=host", "A=image", "HOME=/home/x"]
    assert process["cwd"] == "/work"
    assert process["user"] == {"uid": 5, "gid": 6, "additionalGids": [6, 7]}
    assert set(process["capabilities"]["bounding"]) == set(DEFAULT)
    assert {"type": "network", "path": "/pins/net"} in made["linux"]["namespaces"]
    assert {"type": "pid"} in made["linux"]["namespaces"]
    assert made["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert "seccomp" not in made["linux"]


@pytest.mark.parametrize(("asked", "given"), [(-998, 0), (0, 0), (1000, 1000)])
def test_the_oom_score_is_one_this_machine_allows(asked: int, given: int) -> None:
    def edit(config: cri.ContainerConfig) -> None:
        config.linux.resources.oom_score_adj = asked

    assert spec(edit)["process"]["oomScoreAdj"] == given


@pytest.mark.parametrize(
    ("command", "args", "argv"),
    [
        ([], [], ["/entry", "default"]),
        ([], ["given"], ["/entry", "given"]),
        (["/own"], [], ["/own"]),
        (["/own"], ["given"], ["/own", "given"]),
    ],
)
def test_command_line(command: list[str], args: list[str], argv: list[str]) -> None:
    assert command_line(cri.ContainerConfig(command=command, args=args), IMAGE) == argv


def test_no_command() -> None:
    with pytest.raises(SpecError, match="no command specified"):
        command_line(cri.ContainerConfig(), ImageConfig())


@pytest.mark.parametrize(
    ("add", "drop", "privileged", "expected"),
    [
        pytest.param([], [], False, set(DEFAULT), id="default"),
        pytest.param(["net_admin"], [], False, DEFAULT | {"CAP_NET_ADMIN"}, id="any spelling"),
        pytest.param(["ALL"], ["NET_RAW"], False, set(NAMES) - {"CAP_NET_RAW", "CAP_SYS_RESOURCE"}, id="all but one"),
        pytest.param(["KILL"], ["ALL"], False, {"CAP_KILL"}, id="only one"),
        pytest.param([], ["ALL"], True, set(NAMES) - {"CAP_SYS_RESOURCE"}, id="privileged"),
    ],
)
def test_capabilities(add: list[str], drop: list[str], privileged: bool, expected: set[str]) -> None:
    given, _ = effective(add=add, drop=drop, privileged=privileged, available=MACHINE.capabilities)
    assert set(given) == expected


def test_capabilities_in_vain() -> None:
    _, missing = effective(add=["SYS_RESOURCE"], drop=[], privileged=False, available=MACHINE.capabilities)
    assert missing == ["CAP_SYS_RESOURCE"]
    with pytest.raises(ValueError, match="unknown capability"):
        normalise("FLY")


PASSWD = passwd_entries(["root:x:0:0::/root:/bin/sh", "app:x:100:200::/srv:", "broken", "x:y:z:w"])
GROUP = group_entries(["root:x:0:", "wheel:x:10:root,app", "staff:x:50:app", "broken"])


@pytest.mark.parametrize(
    ("user", "group", "extra", "merged", "expected"),
    [
        pytest.param("", None, [], True, User(0, 0, (0, 10), "/root"), id="root by default"),
        pytest.param("app", None, [], True, User(100, 200, (200, 10, 50), "/srv"), id="name"),
        pytest.param("100", None, [9], True, User(100, 200, (200, 10, 50, 9), "/srv"), id="known number"),
        pytest.param("777", None, [], True, User(777, 0, (0,), "/"), id="unknown number"),
        pytest.param("app:staff", None, [], True, User(100, 50, (50, 10), "/srv"), id="name and group"),
        pytest.param("app", 5, [6], False, User(100, 5, (5, 6), "/srv"), id="strict"),
    ],
)
def test_users(user: str, group: int | None, extra: list[int], merged: bool, expected: User) -> None:
    found = resolve(user, run_as_group=group, supplemental=extra, merge_image_groups=merged, passwd=PASSWD, group=GROUP)
    assert found == expected


@pytest.mark.parametrize("user", ["nobody", "app:nogroup"])
def test_unknown_users(user: str) -> None:
    with pytest.raises(UserNotFound):
        resolve(user, run_as_group=None, supplemental=(), merge_image_groups=True, passwd=PASSWD, group=GROUP)


def test_resources() -> None:
    asked = cri.LinuxContainerResources(
        cpu_shares=512,
        cpu_quota=50000,
        cpu_period=100000,
        memory_limit_in_bytes=1 << 20,
        memory_swap_limit_in_bytes=2 << 20,
        cpuset_cpus="0",
        unified={"memory.high": "1"},
        hugepage_limits=[cri.HugepageLimit(page_size="2MB", limit=4)],
    )
    cpu = {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"}
    huge = [{"pageSize": "2MB", "limit": 4}]
    assert oci_resources(asked, unified=False, swap_accounting=False) == {
        "cpu": cpu,
        "memory": {"limit": 1 << 20},
        "hugepageLimits": huge,
    }
    assert oci_resources(asked, unified=True, swap_accounting=True) == {
        "cpu": cpu,
        "memory": {"limit": 1 << 20, "swap": 2 << 20},
        "hugepageLimits": huge,
        "unified": {"memory.high": "1"},
    }
    assert oci_resources(cri.LinuxContainerResources(), unified=True, swap_accounting=True) == {}


def test_a_change_leaves_what_it_does_not_name() -> None:
    before = cri.LinuxContainerResources(cpu_shares=2, memory_limit_in_bytes=5)
    after = merge(before, cri.LinuxContainerResources(memory_limit_in_bytes=6))
    assert (after.cpu_shares, after.memory_limit_in_bytes) == (2, 6)
    assert before.memory_limit_in_bytes == 5


def rule_of(profile: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [rule for rule in profile["syscalls"] if name in rule["names"]]


def test_the_default_filter() -> None:
    plain, admin = seccomp.default_profile(DEFAULT), seccomp.default_profile(NAMES)
    assert plain["defaultAction"] == "SCMP_ACT_ERRNO"
    assert rule_of(plain, "read")[0]["action"] == "SCMP_ACT_ALLOW"
    for name in ("mount", "reboot", "init_module", "keyctl", "kexec_load", "bpf", "unshare", "io_uring_setup"):
        assert not rule_of(plain, name), name
    assert rule_of(admin, "mount")
    assert rule_of(plain, "clone3") == [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    assert rule_of(plain, "clone")[0]["args"][0]["op"] == "SCMP_CMP_MASKED_EQ"
    assert not rule_of(seccomp.default_profile(()), "chroot")


def test_a_local_filter(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(
        '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": ['
        '{"names": ["read"], "action": "SCMP_ACT_ALLOW"},'
        '{"name": "write", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_KILL"]}},'
        '{"names": ["open"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_KILL"]}}]}'
    )
    held = seccomp.local_profile(tmp_path, "p.json", ["CAP_KILL"])
    assert [rule["names"] for rule in held["syscalls"]] == [["read"], ["write"]]
    assert [rule["names"] for rule in seccomp.local_profile(tmp_path, "p.json", [])["syscalls"]] == [["read"], ["open"]]
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="cannot decode seccomp profile"):
        seccomp.local_profile(tmp_path, "bad.json", [])


def test_mounts_are_ordered_and_replaced() -> None:
    defaults = [{"destination": "/proc", "source": "proc"}, {"destination": "/dev/shm", "source": "shm"}]
    asked = [
        {"destination": "/a/b/c", "source": "1"},
        {"destination": "/proc", "source": "2"},
        {"destination": "/a", "source": "3"},
    ]
    assert [(mount["destination"], mount["source"]) for mount in combine(defaults, asked)] == [
        ("/proc", "2"),
        ("/a", "3"),
        ("/dev/shm", "shm"),
        ("/a/b/c", "1"),
    ]


MOUNTINFO = """20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
21 20 0:5 / /data rw master:7 - tmpfs tmpfs rw
22 20 0:6 / /data/with\\040space rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "propagation", "problem"),
    [
        ("/x", cri.PROPAGATION_BIDIRECTIONAL, ""),
        ("/data/x", cri.PROPAGATION_HOST_TO_CONTAINER, ""),
        ("/data/x", cri.PROPAGATION_BIDIRECTIONAL, 'path "/data/x" is mounted on "/data" but it is not a shared mount'),
        (
            "/data/with space",
            cri.PROPAGATION_HOST_TO_CONTAINER,
            'path "/data/with space" is mounted on "/data/with space" but it is not a shared or slave mount',
        ),
        ("/data/with space", cri.PROPAGATION_PRIVATE, ""),
    ],
)
def test_propagation(path: str, propagation: cri.MountPropagation, problem: str) -> None:
    assert propagation_error(cri.Mount(propagation=propagation), path, MOUNTINFO) == problem


def test_mount_of() -> None:
    assert mount_of("/database", MOUNTINFO)[0] == "/"


@pytest.mark.parametrize(
    ("name", "number"), [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)]
)
def test_signals(name: str, number: int) -> None:
    assert signal_number(name) == number


def test_signals_of_cri() -> None:
    assert from_cri(cri.RUNTIME_DEFAULT) == ""
    assert from_cri(cri.SIGRTMINPLUS3) == "SIGRTMIN+3"
    assert to_cri("SIGRTMIN+3") == cri.SIGRTMINPLUS3
    assert to_cri("15") == cri.SIGTERM
    with pytest.raises(ValueError, match="invalid signal"):
        signal_number("SIGNOTHING")
