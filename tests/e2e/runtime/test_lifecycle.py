"""Pods and containers from their making to their end, on real runc and conmon."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from tests.e2e.runtime.harness import Client, log_lines, size_of, until
from tiphys.api.cri import api_pb2 as cri


async def test_a_container_runs_logs_and_ends(cri_client: Client) -> None:
    sandbox = await cri_client.sandbox("web")
    container = await cri_client.run(sandbox, "sh", "-c", "echo out; echo err >&2; hostname; exit 3")
    status = await cri_client.exited(container)
    assert (status.exit_code, status.reason) == (3, "Error")
    assert sorted(log_lines(status.log_path)) == [("stderr", "err"), ("stdout", "out"), ("stdout", "web")]
    assert 0 < status.created_at <= status.started_at <= status.finished_at
    assert status.image_ref.startswith("docker.io/library/busybox@sha256:")
    assert status.user.linux.supplemental_groups == [0, 10]


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        pytest.param("trap 'exit 7' TERM; while true; do sleep 0.05; done", 7, "Error", id="handles SIGTERM"),
        pytest.param("trap 'exit 0' TERM; while true; do sleep 0.05; done", 0, "Completed", id="ends well"),
        pytest.param("trap '' TERM; while true; do sleep 0.05; done", 137, "Error", id="is killed after its grace"),
    ],
)
async def test_stop(cri_client: Client, script: str, code: int, reason: str) -> None:
    container = await cri_client.run(await cri_client.sandbox(), "sh", "-c", f"{script}")
    await cri_client.exec(container, "true")  # the shell has set its trap
    await cri_client.stop(container, 1)
    await cri_client.stop(container, 1)
    status = await cri_client.status(container)
    assert (status.exit_code, status.reason) == (code, reason)


async def test_what_never_ran_has_not_ended(cri_client: Client) -> None:
    """Who finds it later must not take it for done: a pod that is not to restart would have succeeded."""
    sandbox = await cri_client.sandbox()
    container = await cri_client.create(sandbox, "sleep", "1000")
    await cri_client.stop(container, 1)
    assert (await cri_client.status(container)).state == cri.CONTAINER_CREATED
    await cri_client.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox[0]))
    status = await cri_client.status(container)
    assert (status.state, status.finished_at, status.reason) == (cri.CONTAINER_CREATED, 0, "")


async def test_out_of_memory(cri_client: Client) -> None:
    def limit(config: cri.ContainerConfig) -> None:
        config.linux.resources.memory_limit_in_bytes = 16 << 20

    container = await cri_client.run(await cri_client.sandbox(), "sh", "-c", "exec tail /dev/zero", edit=limit)
    status = await cri_client.exited(container)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


async def test_a_command_that_is_not_there(cri_client: Client) -> None:
    container = await cri_client.create(await cri_client.sandbox(), "/no/such/program")
    with pytest.raises(grpc.aio.AioRpcError, match="no such file or directory"):
        await cri_client.start(container)
    status = await cri_client.status(container)
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 128, "StartError")


async def test_an_unknown_image(cri_client: Client) -> None:
    def other(config: cri.ContainerConfig) -> None:
        config.image.image = "nowhere/nothing:1"

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri_client.create(await cri_client.sandbox(), "true", edit=other)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_missing_objects(cri_client: Client) -> None:
    await cri_client.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id="gone"))
    await cri_client.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id="gone"))
    await cri_client.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id="gone"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri_client.status("gone")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_stopping_the_sandbox_kills_its_containers(cri_client: Client) -> None:
    sandbox = await cri_client.sandbox()
    container = await cri_client.run(sandbox, "sleep", "1000")
    await cri_client.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox[0]))
    assert (await cri_client.status(container)).exit_code == 137
    status = await cri_client.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox[0]))
    assert status.status.state == cri.SANDBOX_NOTREADY
    with pytest.raises(grpc.aio.AioRpcError, match="is not running"):
        await cri_client.create(sandbox, "true")


async def test_one_sandbox_a_name(cri_client: Client) -> None:
    _, config = await cri_client.sandbox("twin")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri_client.runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=config))
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_lists_and_filters(cri_client: Client) -> None:
    one, two = await cri_client.sandbox("one"), await cri_client.sandbox("two")
    container = await cri_client.run(one, "sleep", "1000")
    await cri_client.create(two, "sleep", "1000")
    only = cri.PodSandboxFilter(label_selector={"app": "two"})
    found = await cri_client.runtime.ListPodSandbox(cri.ListPodSandboxRequest(filter=only))
    assert [item.id for item in found.items] == [two[0]]
    running = cri.ContainerFilter(state=cri.ContainerStateValue(state=cri.CONTAINER_RUNNING))
    listed = await cri_client.runtime.ListContainers(cri.ListContainersRequest(filter=running))
    assert [item.id for item in listed.containers] == [container]


async def test_events(cri_client: Client) -> None:
    events = cri_client.runtime.GetContainerEvents(cri.GetEventsRequest())
    reading = asyncio.ensure_future(_take(events, 6))
    await asyncio.sleep(0.1)  # the stream is open when the server has seen the call
    sandbox = await cri_client.sandbox()
    await cri_client.run(sandbox, "true")
    kinds = [(event.container_id == sandbox[0], event.container_event_type) for event in await reading]
    assert kinds == [
        (True, cri.CONTAINER_CREATED_EVENT),
        (True, cri.CONTAINER_STARTED_EVENT),
        (False, cri.CONTAINER_CREATED_EVENT),
        (False, cri.CONTAINER_STARTED_EVENT),
        (False, cri.CONTAINER_STOPPED_EVENT),
    ]


async def _take(events: object, count: int) -> list[cri.ContainerEventResponse]:
    taken: list[cri.ContainerEventResponse] = []
    async for event in events:  # type: ignore[attr-defined]
        taken.append(event)
        if event.container_event_type == cri.CONTAINER_STOPPED_EVENT or len(taken) == count:
            break
    return taken


async def test_the_log_can_be_rotated(cri_client: Client) -> None:
    container = await cri_client.run(await cri_client.sandbox(), "sh", "-c", "while true; do echo x; sleep 0.02; done")
    path = Path((await cri_client.status(container)).log_path)
    rename(path)
    await cri_client.runtime.ReopenContainerLog(cri.ReopenContainerLogRequest(container_id=container))
    await until(lambda: size_of(path))


def rename(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


async def test_limits_change_without_a_restart(cri_client: Client) -> None:
    def limit(config: cri.ContainerConfig) -> None:
        config.linux.resources.cpu_shares = 512
        config.linux.resources.memory_limit_in_bytes = 64 << 20

    container = await cri_client.run(await cri_client.sandbox(), "sleep", "1000", edit=limit)
    change = cri.LinuxContainerResources(cpu_quota=50000, cpu_period=100000, memory_limit_in_bytes=128 << 20)
    await cri_client.runtime.UpdateContainerResources(
        cri.UpdateContainerResourcesRequest(container_id=container, linux=change)
    )
    resources = (await cri_client.status(container)).resources.linux
    assert (resources.cpu_shares, resources.cpu_quota) == (512, 50000)
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    seen = await cri_client.exec(container, "sh", "-c", script)
    assert seen.stdout.decode().split() == [str(128 << 20)]


async def test_stats(cri_client: Client) -> None:
    sandbox = await cri_client.sandbox()
    container = await cri_client.run(sandbox, "sh", "-c", "dd if=/dev/zero of=/file bs=1M count=2; sleep 1000")
    await cri_client.exec(container, "sh", "-c", "while [ ! -f /file ]; do sleep 0.01; done; sync")
    stats = (await cri_client.runtime.ContainerStats(cri.ContainerStatsRequest(container_id=container))).stats
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert stats.memory.working_set_bytes.value > 0
    assert stats.writable_layer.used_bytes.value > 0
    pod = (await cri_client.runtime.PodSandboxStats(cri.PodSandboxStatsRequest(pod_sandbox_id=sandbox[0]))).stats
    assert [item.attributes.id for item in pod.linux.containers] == [container]
