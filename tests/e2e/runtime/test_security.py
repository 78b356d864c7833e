"""Who a container is, what it may do, and what it shares: asked of the kernel from inside."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.e2e.runtime.harness import Client
from tiphys.api.cri import api_pb2 as cri
from tiphys.runtime import linux
from tiphys.runtime.spec.capabilities import DEFAULT, NAMES

Edit = Callable[[cri.ContainerConfig], None]


def security(config: cri.ContainerConfig) -> cri.LinuxContainerSecurityContext:
    return config.linux.security_context


def as_user(config: cri.ContainerConfig) -> None:
    security(config).run_as_user.value = 1000
    security(config).run_as_group.value = 2000
    security(config).supplemental_groups.extend([3000, 4000])


def by_name(config: cri.ContainerConfig) -> None:
    security(config).run_as_username = "www-data"


def root_strictly(config: cri.ContainerConfig) -> None:
    security(config).run_as_user.value = 0
    security(config).supplemental_groups_policy = cri.Strict


def read_only(config: cri.ContainerConfig) -> None:
    security(config).readonly_rootfs = True


def no_new_privileges(config: cri.ContainerConfig) -> None:
    security(config).no_new_privs = True


def masked(config: cri.ContainerConfig) -> None:
    security(config).masked_paths.extend(["/proc/kcore", "/proc/keys"])
    security(config).readonly_paths.append("/proc/sys")


def filtered(config: cri.ContainerConfig) -> None:
    security(config).seccomp.profile_type = cri.SecurityProfile.RuntimeDefault


def on_terminal(config: cri.ContainerConfig) -> None:
    config.tty = True


def with_environment(config: cri.ContainerConfig) -> None:
    config.envs.add(key="A", value=b"b c")
    config.working_dir = "/tmp"


@pytest.mark.parametrize(
    ("edit", "script", "expected"),
    [
        pytest.param(as_user, "id -u; id -g; id -G", "1000\n2000\n2000 3000 4000", id="numeric user"),
        pytest.param(by_name, "id", "uid=33(www-data) gid=33(www-data) groups=33(www-data)", id="user by name"),
        pytest.param(root_strictly, "id -G", "0", id="strict groups"),
        pytest.param(read_only, "touch /x 2>&1", "touch: /x: Read-only file system", id="read-only root"),
        pytest.param(no_new_privileges, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1", id="no new privileges"),
        pytest.param(
            masked,
            "wc -c < /proc/keys; echo 1 2>&1 > /proc/sys/kernel/domainname",
            "0\nsh: can't create /proc/sys/kernel/domainname: Read-only file system",
            id="masked and read-only paths",
        ),
        pytest.param(filtered, "grep Seccomp: /proc/self/status; unshare -m 2>&1", None, id="seccomp"),
        pytest.param(on_terminal, "test -t 1 && echo terminal $TERM", "terminal xterm", id="terminal"),
        pytest.param(
            with_environment, 'echo "$A"; pwd; echo $HOSTNAME; echo $HOME', "b c\n/tmp\npod\n/root", id="environment"
        ),
        pytest.param(None, "cat /proc/self/oom_score_adj", "0", id="oom score"),
    ],
)
async def test_inside(cri_client: Client, edit: Edit | None, script: str, expected: str | None) -> None:
    output = await cri_client.output(await cri_client.sandbox(), "sh", "-c", f"exec 2>&1; {script}", edit=edit)
    if expected is None:
        assert output.startswith("Seccomp:\t2\n")
        assert "Operation not permitted" in output
    else:
        assert output.replace("\r", "") == expected


def capabilities_in(output: str) -> set[str]:
    bits = int(output.split()[1], 16)
    return {name for number, name in enumerate(NAMES) if bits >> number & 1}


def held() -> set[str]:
    numbers = linux.effective_capabilities()
    return {name for number, name in enumerate(NAMES) if number in numbers}


@pytest.mark.parametrize(
    ("add", "drop", "privileged", "expected"),
    [
        pytest.param([], [], False, set(DEFAULT), id="default"),
        pytest.param(["NET_ADMIN"], ["MKNOD"], False, (DEFAULT | {"CAP_NET_ADMIN"}) - {"CAP_MKNOD"}, id="add and drop"),
        pytest.param(["CHOWN"], ["ALL"], False, {"CAP_CHOWN"}, id="drop all"),
        pytest.param(["ALL"], [], False, set(NAMES), id="add all"),
        pytest.param([], [], True, set(NAMES), id="privileged"),
    ],
)
async def test_capabilities(
    cri_client: Client, add: list[str], drop: list[str], privileged: bool, expected: set[str]
) -> None:
    def edit(config: cri.ContainerConfig) -> None:
        security(config).capabilities.add_capabilities.extend(add)
        security(config).capabilities.drop_capabilities.extend(drop)
        security(config).privileged = privileged

    output = await cri_client.output(await cri_client.sandbox(), "grep", "CapEff", "/proc/self/status", edit=edit)
    assert capabilities_in(output) == expected & held()


async def test_an_unknown_user(cri_client: Client) -> None:
    def edit(config: cri.ContainerConfig) -> None:
        security(config).run_as_username = "nobody-of-this-name"

    with pytest.raises(grpc.aio.AioRpcError, match="no matching entries in passwd file"):
        await cri_client.create(await cri_client.sandbox(), "true", edit=edit)


async def test_a_local_seccomp_profile(cri_client: Client) -> None:
    profile = cri_client.options.root.parent / "profile.json"
    profile.write_text(
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}'
    )

    def edit(config: cri.ContainerConfig) -> None:
        security(config).seccomp.profile_type = cri.SecurityProfile.Localhost
        security(config).seccomp.localhost_ref = str(profile)

    output = await cri_client.output(
        await cri_client.sandbox(), "sh", "-c", "mkdir /x 2>&1; touch /y && echo y", edit=edit
    )
    assert output == "mkdir: can't create directory '/x': Operation not permitted\ny"


# ---- namespaces


def shared(config: cri.PodSandboxConfig) -> None:
    config.linux.security_context.namespace_options.pid = cri.POD


def on_the_node(config: cri.PodSandboxConfig) -> None:
    options = config.linux.security_context.namespace_options
    options.network = options.pid = options.ipc = cri.NODE


def with_dns(config: cri.PodSandboxConfig) -> None:
    config.dns_config.servers.append("10.96.0.10")
    config.dns_config.searches.extend(["default.svc.cluster.local", "svc.cluster.local"])
    config.dns_config.options.append("ndots:5")


def with_sysctls(config: cri.PodSandboxConfig) -> None:
    config.linux.sysctls["net.core.somaxconn"] = "777"
    config.linux.sysctls["kernel.shm_rmid_forced"] = "1"


async def test_shared_process_ids(cri_client: Client) -> None:
    sandbox = await cri_client.sandbox(edit=shared)
    await cri_client.run(sandbox, "sleep", "1234", name="one")
    two = await cri_client.run(sandbox, "sleep", "1000", name="two")
    seen = (await cri_client.exec(two, "ps")).stdout.decode()
    assert "/pause" in seen
    assert "sleep 1234" in seen
    listed = await cri_client.runtime.ListContainers(cri.ListContainersRequest())
    assert len(listed.containers) == 2


async def test_one_container_joins_anothers_process_ids(cri_client: Client) -> None:
    sandbox = await cri_client.sandbox()
    first = await cri_client.run(sandbox, "sleep", "1234", name="one")

    def target(config: cri.ContainerConfig) -> None:
        security(config).namespace_options.pid = cri.TARGET
        security(config).namespace_options.target_id = first

    assert "sleep 1234" in await cri_client.output(sandbox, "ps", edit=target, name="debug")


async def test_the_nodes_namespaces(cri_client: Client) -> None:
    sandbox = await cri_client.sandbox(edit=on_the_node)
    output = await cri_client.output(
        sandbox, "sh", "-c", "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done"
    )
    assert output.split() == [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "ipc", "uts", "pid")]


async def test_containers_share_their_pods_namespaces(cri_client: Client) -> None:
    sandbox = await cri_client.sandbox()
    script = "for n in net ipc uts; do readlink /proc/self/ns/$n; done; echo x >> /dev/shm/f; wc -l < /dev/shm/f"
    one = (await cri_client.output(sandbox, "sh", "-c", script)).split()
    two = (await cri_client.output(sandbox, "sh", "-c", script)).split()
    assert one[:3] == two[:3]
    assert (one[3], two[3]) == ("1", "2")
    assert one[0] != os.readlink("/proc/self/ns/net")


async def test_dns_and_sysctls(cri_client: Client) -> None:
    dns = await cri_client.output(await cri_client.sandbox("a", edit=with_dns), "cat", "/etc/resolv.conf")
    assert dns == "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5"
    files = ("/proc/sys/net/core/somaxconn", "/proc/sys/kernel/shm_rmid_forced")
    unprivileged = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    sandbox = await cri_client.sandbox("b", edit=with_sysctls)
    assert (await cri_client.output(sandbox, "cat", *files, unprivileged)).split() == ["777", "1", "0"]


async def test_loopback_is_up(cri_client: Client) -> None:
    assert "UP" in await cri_client.output(await cri_client.sandbox(), "ip", "link", "show", "lo")


# ---- mounts


async def test_mounts(cri_client: Client, base: Path) -> None:
    source = base / "volume"
    source.mkdir()
    (source / "file").write_text("content\n")

    def edit(config: cri.ContainerConfig) -> None:
        config.mounts.add(container_path="/rw", host_path=str(source))
        config.mounts.add(container_path="/ro", host_path=str(source), readonly=True)
        config.mounts.add(container_path="/etc/hosts", host_path=str(source / "file"))
        config.mounts.add(container_path="/made", host_path=str(base / "made/here"))

    script = "exec 2>&1; echo new > /rw/new; cat /ro/new; touch /ro/x; cat /etc/hosts; ls -d /made"
    output = await cri_client.output(await cri_client.sandbox(), "sh", "-c", script, edit=edit)
    assert output.split("\n") == ["new", "touch: /ro/x: Read-only file system", "content", "/made"]
    assert (base / "made/here").is_dir()


def node_mounts() -> str:
    return Path("/proc/mounts").read_text()


async def test_propagation(cri_client: Client, base: Path) -> None:
    """A mount the container makes appears on the node with Bidirectional; the node's appears inside with both."""
    source = base / "volume"
    source.mkdir()
    linux.bind(source, source)
    linux.mount("none", source, "none", linux.MS_SHARED)

    def edit(config: cri.ContainerConfig) -> None:
        security(config).privileged = True
        config.mounts.add(container_path="/both", host_path=str(source), propagation=cri.PROPAGATION_BIDIRECTIONAL)
        config.mounts.add(container_path="/in", host_path=str(source), propagation=cri.PROPAGATION_HOST_TO_CONTAINER)

    try:
        for name in ("a", "b"):
            (source / name).mkdir()
        sandbox = await cri_client.sandbox()
        container = await cri_client.run(sandbox, "sleep", "1000", edit=edit)
        done = await cri_client.exec(container, "mount", "-t", "tmpfs", "inside", "/both/a")
        assert done.exit_code == 0, done.stderr
        assert "inside" in node_mounts()
        linux.mount("outside", source / "b", "tmpfs")
        seen = (await cri_client.exec(container, "cat", "/proc/mounts")).stdout.decode()
        assert "outside /in/b" in seen
        assert "outside /both/b" in seen
    finally:
        for path in (source / "a", source / "b", source):
            linux.unmount(path)


async def test_propagation_from_a_private_mount_is_refused(cri_client: Client, base: Path) -> None:
    source = base / "private"
    source.mkdir()
    linux.bind(source, source)
    linux.mount("none", source, "none", linux.MS_PRIVATE)

    def edit(config: cri.ContainerConfig) -> None:
        config.mounts.add(container_path="/x", host_path=str(source), propagation=cri.PROPAGATION_BIDIRECTIONAL)

    try:
        with pytest.raises(grpc.aio.AioRpcError, match="is not a shared mount"):
            await cri_client.create(await cri_client.sandbox(), "true", edit=edit)
    finally:
        linux.unmount(source)


async def test_an_image_as_a_volume(cri_client: Client) -> None:
    def edit(config: cri.ContainerConfig) -> None:
        for path, inside in (("/img", ""), ("/bins", "bin")):
            mount = config.mounts.add(container_path=path, image_sub_path=inside)
            mount.image.image = "busybox"

    script = "exec 2>&1; cat /img/etc/nsswitch.conf | head -1; test -x /bins/busybox && echo found; touch /img/x"
    output = await cri_client.output(await cri_client.sandbox(), "sh", "-c", script, edit=edit)
    assert output.split("\n") == ["passwd: files", "found", "touch: /img/x: Read-only file system"]


async def test_devices(cri_client: Client) -> None:
    def edit(config: cri.ContainerConfig) -> None:
        config.devices.add(container_path="/dev/mine", host_path="/dev/null", permissions="rw")

    output = await cri_client.output(
        await cri_client.sandbox(), "sh", "-c", "echo x > /dev/mine && echo fine", edit=edit
    )
    assert output == "fine"
