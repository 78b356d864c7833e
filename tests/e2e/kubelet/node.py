"""A whole node in one process: the real API server, the real runtime and the kubelet under test.

Pods get an address on their own loopback, so that nothing of the machine's network is touched; what
a pod needs beyond that belongs to the tests of a whole cluster.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from pyroute2 import IPRoute

from tests.e2e.kubelet.containerd import Containerd
from tiphys.api.core.v1 import ConfigMap, Event, Namespace, Node, Pod, ServiceAccount
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.apiserver.options import ServerOptions
from tiphys.apiserver.pki import Pki
from tiphys.apiserver.security import secured_server
from tiphys.base.tasks import Supervised
from tiphys.client import Client, RestConfig
from tiphys.cmd.apiserver import start
from tiphys.kubelet.cgroups.detect import detect_driver
from tiphys.kubelet.cgroups.tree import CgroupTree
from tiphys.kubelet.config import KubeletConfiguration, KubeletFlags
from tiphys.kubelet.kubelet import Kubelet
from tiphys.kubelet.mounts import unmount_below
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName
from tiphys.runtime import namespaces
from tiphys.runtime.images.assemble import ensure_busybox, ensure_pause
from tiphys.runtime.images.store import ImageStore
from tiphys.runtime.network import NetworkResult, NetworkSetup, NetworkStatus, PodNetwork
from tiphys.runtime.options import RuntimeOptions
from tiphys.runtime.server import RuntimeServer

# As `tiphys` does for its processes: programs are started by plain forks here too.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
BUSYBOX = "docker.io/library/busybox:latest"
TIMEOUT = 30.0


class AddressOnly:
    """Gives every pod an address on its own loopback interface."""

    def __init__(self) -> None:
        self._numbers = itertools.count(2)

    async def add(self, pod: PodNetwork) -> NetworkResult:
        address = f"10.244.77.{next(self._numbers) % 250 + 2}"
        await asyncio.to_thread(namespaces.inside, pod.netns_path, partial(_own_address, address))
        return NetworkResult((address,), ("lo",))

    async def delete(self, pod: PodNetwork) -> None:
        return None

    async def check(self, pod: PodNetwork) -> None:
        return None

    def status(self) -> NetworkStatus:
        return NetworkStatus()

    async def update_config(self, pod_cidr: str) -> None:
        return None


def _own_address(address: str) -> None:
    with IPRoute() as ip:
        ip.addr("add", index=1, address=address, prefixlen=32)


@dataclass
class TestNode:
    """What a test works with."""

    __test__ = False

    client: Client  # of the administrator
    own: Client  # of the kubelet, with a node's rights
    pki: Pki
    root: Path
    name: str
    cgroup_root: str
    config: KubeletConfiguration
    flags: KubeletFlags
    tasks: Supervised
    runtime_options: RuntimeOptions
    network: NetworkSetup = field(default_factory=AddressOnly)  # of our runtime
    containerd: Containerd | None = None  # in place of our runtime
    kubelet: Kubelet | None = None
    kubelet_task: asyncio.Task[None] | None = None
    runtime_task: asyncio.Task[None] | None = None
    namespaces: list[str] = field(default_factory=list)

    async def start_runtime(self) -> None:
        if self.containerd is not None:
            await self.containerd.start()
            return
        runtime = RuntimeServer(self.runtime_options, self.network)
        self.runtime_task = self.tasks.spawn(runtime.run, name="runtime")
        await asyncio.wait_for(runtime.ready.wait(), TIMEOUT)

    async def stop_runtime(self) -> None:
        """The runtime goes; its containers run on under their monitors."""
        if self.containerd is not None:
            await self.containerd.stop()
            return
        assert self.runtime_task is not None
        self.runtime_task.cancel()
        await asyncio.wait({self.runtime_task})

    async def start_kubelet(self) -> None:
        self.kubelet = Kubelet(self.config, self.flags, self.own)
        self.kubelet_task = self.tasks.spawn(self.kubelet.run, name="kubelet")
        await asyncio.wait_for(self.kubelet.ready.wait(), TIMEOUT)

    async def stop_kubelet(self) -> None:
        """The kubelet goes; what it started stays."""
        assert self.kubelet_task is not None
        self.kubelet_task.cancel()
        await asyncio.wait({self.kubelet_task})

    async def create(self, name: str, spec: dict[str, Any], **metadata: Any) -> Pod:
        """Create a pod bound to the node."""
        spec = {
            "nodeName": self.name,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            **spec,
        }
        document = {"metadata": {"name": name, "namespace": "default", **metadata}, "spec": spec}
        return await self.client.create(msgspec.convert(document, Pod))

    async def pod(self, name: str) -> Pod | None:
        try:
            return await self.client.get(Pod, ObjectName("default", name))
        except NotFoundError:
            return None

    async def wait(self, name: str, holds: Callable[[Pod], bool], what: str = "the condition") -> Pod:
        """Wait until the pod is as wanted, by watching it."""
        last: Pod | None = None
        try:
            async with asyncio.timeout(TIMEOUT):
                listed = await self.client.list(Pod, namespace="default", field_selector=f"metadata.name={name}")
                for last in listed.items:
                    if holds(last):
                        return last
                async for event in self.client.watch(
                    Pod,
                    namespace="default",
                    field_selector=f"metadata.name={name}",
                    resource_version=listed.resource_version,
                ):
                    if event.object.metadata.name != name:
                        continue
                    last = event.object
                    if holds(last):
                        return last
        except TimeoutError:
            pass
        status = msgspec.json.format(msgspec.json.encode(last.status), indent=1).decode() if last else "no pod"
        raise AssertionError(f"pod {name}: {what} did not come; {status}\n{await self.events(name)}")

    async def running(self, name: str) -> Pod:
        return await self.wait(name, lambda pod: pod.status.phase == "Running" and is_ready(pod), "Running and Ready")

    async def phase(self, name: str, phase: str) -> Pod:
        return await self.wait(name, lambda pod: pod.status.phase == phase, phase)

    async def gone(self, name: str) -> None:
        async def absent() -> bool:
            return await self.pod(name) is None

        await eventually(absent, f"pod {name} gone")

    async def delete(self, name: str, grace: int | None = None) -> None:
        await self.client.delete(Pod, ObjectName("default", name), grace_period_seconds=grace)

    async def events(self, name: str) -> list[tuple[str, str]]:
        listed = await self.client.list(Event, namespace="default")
        return [(event.reason, event.message) for event in listed.items if event.involved_object.name == name]

    async def event(self, name: str, reason: str) -> str:
        """Wait for an event of this reason about the pod; returns its message."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                for found, message in await self.events(name):
                    if found == reason:
                        return message
                await asyncio.sleep(0.05)

    async def exec(self, name: str, *command: str, container: str | None = None) -> str:
        """Run a command in a container of the pod, through the runtime."""
        assert self.kubelet is not None and self.kubelet.services is not None and self.kubelet.manager is not None
        worker = self.kubelet.manager.find("default", name)
        assert worker is not None
        found = worker.runtime.container(container or worker.pod.spec.containers[0].name)
        assert found is not None
        answer = await self.kubelet.services.runtime.exec_sync(found.id, list(command), 10)
        return (answer.stdout + answer.stderr).decode()

    def log(self, pod: Pod, container: str, restart: int = 0) -> Path:
        directory = Path(self.config.pod_logs_dir) / f"default_{pod.metadata.name}_{pod.metadata.uid}"
        return directory / container / f"{restart}.log"


async def eventually(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Ask again and again, for things that cannot be watched."""
    for _ in range(int(TIMEOUT / 0.05)):
        if await holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what}: did not come within {TIMEOUT:g} seconds")


def is_ready(pod: Pod) -> bool:
    return any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions)


@asynccontextmanager
async def running_node(
    root: Path, *, containerd: Containerd | None = None, network: NetworkSetup | None = None, **config: Any
) -> AsyncIterator[TestNode]:
    """Everything up; everything gone afterwards, whatever happened."""
    mark = secrets.token_hex(3)
    cgroup_root = f"/tph-test-{mark}"
    pki = Pki(root / "pki")
    serving = pki.server("apiserver", "kube-apiserver", ["127.0.0.1"])
    api = secured_server(
        ServerOptions(
            store="memory",
            port=_free_port(),
            service_account_key=pki.service_account_key,
            tls_certificate=serving.with_suffix(".crt"),
            tls_key=serving.with_suffix(".key"),
            client_ca=pki.directory / "ca.crt",
            enable_admission=("NodeRestriction",),
            disable_admission=("ServiceAccount", "PodResizeValidator"),  # the kubelet is to judge
        )
    )
    images = ImageStore(root / "images")
    await asyncio.to_thread(ensure_pause, images)
    await asyncio.to_thread(ensure_busybox, images)
    runtime_options = RuntimeOptions(
        root=root / "runtime",
        run=root / "run",
        images=root / "images",
        listen=f"unix://{root}/cri.sock",
        node="node-1",
        default_cgroup_parent=cgroup_root,
        cdi_directories=(root / "cdi",),
    )
    settings: dict[str, Any] = {
        "cgroup_root": cgroup_root,
        "port": 0,
        "healthz_port": 0,
        "address": "127.0.0.1",
        "client_ca_file": str(pki.directory / "ca.crt"),
        "cluster_dns": ("10.96.0.10",),
        "pod_logs_dir": str(root / "logs"),
        "static_pod_path": str(root / "manifests"),
        "eviction_hard": {},
        "sync_frequency": timedelta(seconds=60),
        **config,
    }
    flags = KubeletFlags(
        node_name="node-1",
        root_dir=root / "kubelet",
        node_ips=("127.0.0.1",),
        container_runtime_endpoint=containerd.endpoint if containerd else f"unix://{root}/cri.sock",
    )
    await start(api)
    url = f"https://127.0.0.1:{api.addresses[0][1]}"
    client = Client(_identity(url, pki, "admin", "kubernetes-admin", "system:masters"))
    own = Client(_identity(url, pki, "kubelet", "system:node:node-1", "system:nodes"), user_agent="kubelet/v1.36.2")
    (root / "manifests").mkdir()
    node: TestNode | None = None
    try:
        async with Supervised() as tasks:
            node = TestNode(
                client=client,
                own=own,
                pki=pki,
                root=root,
                name="node-1",
                cgroup_root=cgroup_root,
                config=KubeletConfiguration(**settings),
                flags=flags,
                tasks=tasks,
                runtime_options=runtime_options,
                network=network or AddressOnly(),
                containerd=containerd,
            )
            await _prepare(client)
            await node.start_runtime()
            await node.start_kubelet()
            try:
                yield node
            finally:
                await _delete_everything(node)
    finally:
        await client.close()
        await own.close()
        await api.stop()
        if containerd is not None:
            await containerd.close()
        await asyncio.to_thread(_clean_up, root, cgroup_root)


async def _prepare(client: Client) -> None:
    """What the controllers of a cluster would have made."""
    for name in ("default", "kube-node-lease"):
        await _quietly(client.create(Namespace(metadata=ObjectMeta(name=name))))
    account = ServiceAccount(metadata=ObjectMeta(name="default", namespace="default"))
    await _quietly(client.create(account))
    ca = ConfigMap(metadata=ObjectMeta(name="kube-root-ca.crt", namespace="default"), data={"ca.crt": "a certificate"})
    await _quietly(client.create(ca))


async def _quietly(work: Awaitable[Any]) -> None:
    from tiphys.machinery.errors import AlreadyExistsError

    try:
        await work
    except AlreadyExistsError:
        pass


async def _delete_everything(node: TestNode) -> None:
    """Let the kubelet end every pod."""
    if node.kubelet_task is None or node.kubelet_task.done():
        await node.start_kubelet()
    for path in (node.root / "manifests").iterdir():
        path.unlink()
    for pod in (await node.client.list(Pod, namespace="default")).items:
        try:
            await node.client.delete(Pod, ObjectName("default", pod.metadata.name), grace_period_seconds=1)
        except NotFoundError:
            continue
    assert node.kubelet is not None and node.kubelet.manager is not None
    manager = node.kubelet.manager

    async def ended() -> bool:
        return not manager.workers

    await eventually(ended, "every pod ended")


def _clean_up(root: Path, cgroup_root: str) -> None:
    unmount_below(root)
    CgroupTree(detect_driver(), cgroup_root).remove()
    shutil.rmtree(root, ignore_errors=True)


def leftovers(node: TestNode) -> dict[str, list[str]]:
    """What the node still holds of pods: mounts, cgroups, processes."""
    mounts = [
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(node.root) in line
    ]
    tree = CgroupTree(detect_driver(), node.cgroup_root)
    listed = subprocess.run(["pgrep", "-f", str(node.root)], capture_output=True, text=True, check=False).stdout.split()
    return {"mounts": mounts, "cgroups": sorted(tree.pods()), "processes": listed}


def processes_of(node: TestNode) -> list[int]:
    """The processes inside the cgroups of the node's pods, as the machine numbers them."""
    found: set[int] = set()
    for directory in detect_driver().directories(PurePosixPath(node.cgroup_root) / "kubepods"):
        for file in directory.rglob("cgroup.procs"):
            found.update(int(line) for line in file.read_text().split())
    return sorted(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _identity(url: str, pki: Pki, name: str, user: str, group: str) -> RestConfig:
    base = pki.client(name, user, [group])
    return RestConfig(
        server=url,
        ca_data=pki.ca.pem,
        cert_data=base.with_suffix(".crt").read_bytes(),
        key_data=base.with_suffix(".key").read_bytes(),
    )


__all__ = ["BUSYBOX", "Node", "TestNode", "is_ready", "leftovers", "running_node"]
