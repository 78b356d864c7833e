"""What limits do to real processes, on whatever cgroup version the machine has: the numbers, for a test to judge.

Pods' cgroups are made by the kubelet's tree, containers in them by the runtime, as on a node. As a program it prints
the numbers as one line of JSON behind RESULT; `vm` runs it so in a machine of cgroup version 2.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import time
from collections.abc import Callable

import msgspec

from tests.e2e.runtime.harness import Client, clear_away, new_base, options_in, serving
from tiphys.api.core.v1 import Pod
from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.cgroups.detect import detect_driver
from tiphys.kubelet.cgroups.tree import CgroupTree, Limits

SPIN = ("sh", "-c", "while :; do :; done")
Sandbox = tuple[str, cri.PodSandboxConfig]


@dataclasses.dataclass
class Measured:
    """CPU in cores."""

    unified: bool
    half_a_core: float  # a busy loop under 500m
    resized: float  # the same container under 200m, without a restart
    share: float  # how much more a container of three times the shares got of one CPU
    out_of_memory: tuple[int, str]  # exit code, reason
    children: int  # how many processes a pod limited to 12 could begin with 40 tries
    pod_memory: str  # what the kernel has as the limit of a pod of 64Mi
    left: list[str]


async def measure(seconds: float) -> Measured:
    """Everything once; each CPU measurement takes `seconds`."""
    base = await asyncio.to_thread(new_base)
    options = options_in(base)
    tree = CgroupTree(detect_driver(), options.default_cgroup_parent, pids_limit=12)
    tree.prepare(Limits())
    async with serving(options) as client:
        half, resized = await _quota(client, await _sandbox(client, tree, "quota"), seconds)
        share = await _shares(client, tree, seconds)
        memory = await _memory(client, await _sandbox(client, tree, "memory"))
        limited = _pod("limited", cpu="1", memory="64Mi")
        children = await _children(client, await _sandbox(client, tree, "limited", limited))
        file = "memory.max" if tree.unified else "memory.limit_in_bytes"
        (pod_memory,) = [
            (path / file).read_text().strip() for path in tree.directories(limited) if (path / file).exists()
        ]
    left = await clear_away(base)
    await asyncio.to_thread(tree.remove)
    return Measured(tree.unified, half, resized, share, memory, children, pod_memory, left)


def _pod(uid: str, **limits: str) -> Pod:
    container = {"name": "main", "image": "busybox", "resources": {"limits": limits, "requests": limits}}
    return msgspec.convert(
        {"metadata": {"name": uid, "namespace": "default", "uid": uid}, "spec": {"containers": [container]}}, Pod
    )


async def _sandbox(client: Client, tree: CgroupTree, uid: str, pod: Pod | None = None) -> Sandbox:
    pod = pod or _pod(uid)
    await asyncio.to_thread(tree.create_pod, pod)

    def place(config: cri.PodSandboxConfig) -> None:
        config.linux.cgroup_parent = tree.path_of(pod)

    return await client.sandbox(uid, place)


def _limited(**resources: object) -> Callable[[cri.ContainerConfig], None]:
    def edit(config: cri.ContainerConfig) -> None:
        config.linux.resources.MergeFrom(cri.LinuxContainerResources(**resources))  # type: ignore[arg-type]

    return edit


async def _used(client: Client, seconds: float, *containers: str) -> list[float]:
    """How many cores each container used for `seconds`."""

    async def total(container: str) -> tuple[int, int]:
        request = cri.ContainerStatsRequest(container_id=container)
        cpu = (await client.runtime.ContainerStats(request)).stats.cpu
        return cpu.usage_core_nano_seconds.value, time.monotonic_ns()

    before = [await total(container) for container in containers]
    await asyncio.sleep(seconds)
    after = [await total(container) for container in containers]
    return [(b[0] - a[0]) / (b[1] - a[1]) for a, b in zip(before, after, strict=True)]


async def _quota(client: Client, sandbox: Sandbox, seconds: float) -> tuple[float, float]:
    container = await client.run(sandbox, *SPIN, edit=_limited(cpu_quota=50_000, cpu_period=100_000))
    (half,) = await _used(client, seconds, container)
    change = cri.LinuxContainerResources(cpu_quota=20_000, cpu_period=100_000)
    await client.runtime.UpdateContainerResources(
        cri.UpdateContainerResourcesRequest(container_id=container, linux=change)
    )
    (resized,) = await _used(client, seconds, container)
    await client.stop(container)
    return half, resized


async def _shares(client: Client, tree: CgroupTree, seconds: float) -> float:
    """Two busy loops of one pod on one CPU."""
    sandbox = await _sandbox(client, tree, "shares")
    cpu = str(max(os.sched_getaffinity(0)))
    containers = [
        await client.run(sandbox, *SPIN, name=f"c{shares}", edit=_limited(cpu_shares=shares, cpuset_cpus=cpu))
        for shares in (512, 1536)
    ]
    small, large = await _used(client, seconds, *containers)
    await asyncio.gather(*(client.stop(container) for container in containers))
    return large / small


async def _memory(client: Client, sandbox: Sandbox) -> tuple[int, str]:
    command = ("sh", "-c", "exec tail /dev/zero")
    container = await client.run(sandbox, *command, edit=_limited(memory_limit_in_bytes=16 << 20))
    status = await client.exited(container, timeout=120)
    return status.exit_code, status.reason


async def _children(client: Client, sandbox: Sandbox) -> int:
    """Each try that the kernel refuses is repeated by the shell, so they are one process that forks, not forty."""
    script = "i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done"
    container = await client.run(sandbox, "sh", "-c", f"{script}; wait")
    for _ in range(600):
        status = await client.status(container)
        if status.state == cri.CONTAINER_EXITED:
            break
        await asyncio.sleep(0.1)
    # It could begin as many as were left of twelve and gave up at the next.
    log = [line for line in open(status.log_path).read().splitlines() if "fork" in line]  # noqa: ASYNC230, SIM115
    return 12 if log else 40


def main() -> None:
    """Measure, and say it to whoever reads the console."""
    measured = asyncio.run(measure(float(os.environ.get("TIPHYS_TEST_MEASURE_SECONDS", "10"))))
    print("RESULT " + json.dumps(dataclasses.asdict(measured)), flush=True)


if __name__ == "__main__":
    main()
