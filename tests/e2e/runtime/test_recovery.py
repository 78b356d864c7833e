"""kill -9 of the runtime and of monitors: containers run on, exit codes are not lost, nothing leaks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.runtime.harness import Client, Process, clear_away, new_base, options_in, serving, size_of, until
from tiphys.api.cri import api_pb2 as cri
from tiphys.runtime.state import ContainerRecord, Records, SandboxRecord


class Killable:
    """A runtime process and a client that is replaced with it."""

    def __init__(self, base: Path) -> None:
        self.options = options_in(base)
        self.process = Process(self.options)
        self.process.start()
        self.client = Client(self.options)

    async def kill(self) -> None:
        await self.client.close()
        self.process.kill()

    def start(self) -> None:
        self.process.start()
        self.client = Client(self.options)


@pytest.fixture
async def killable() -> AsyncIterator[Killable]:
    base = new_base()
    runtime = Killable(base)
    yield runtime
    await runtime.kill()
    assert await clear_away(base) == []


async def test_containers_run_on(killable: Killable) -> None:
    sandbox = await killable.client.sandbox()
    container = await killable.client.run(sandbox, "sh", "-c", "while true; do echo tick; sleep 0.02; done")
    before = await killable.client.status(container)
    await killable.kill()
    size = size_of(before.log_path)
    killable.start()
    after = await killable.client.status(container)
    assert (after.state, after.started_at) == (cri.CONTAINER_RUNNING, before.started_at)
    await until(lambda: size_of(before.log_path) > size)
    assert (await killable.client.exec(container, "hostname")).stdout == b"pod\n"
    await killable.client.stop(container)
    assert (await killable.client.status(container)).exit_code == 137
    await killable.client.remove(sandbox)


async def test_an_exit_while_nobody_watched(killable: Killable) -> None:
    sandbox = await killable.client.sandbox()
    go = killable.options.root.parent / "go"
    go.mkdir()

    def share(config: cri.ContainerConfig) -> None:
        config.mounts.add(container_path="/go", host_path=str(go))

    script = "while [ ! -f /go/now ]; do sleep 0.01; done; exit 42"
    container = await killable.client.run(sandbox, "sh", "-c", script, edit=share)
    await killable.kill()
    (go / "now").touch()
    await until((killable.options.exits / container).exists)
    killable.start()
    assert (await killable.client.exited(container)).exit_code == 42


async def test_out_of_memory_while_nobody_watched(killable: Killable) -> None:
    sandbox = await killable.client.sandbox()
    go = killable.options.root.parent / "go"
    go.mkdir()

    def share(config: cri.ContainerConfig) -> None:
        config.mounts.add(container_path="/go", host_path=str(go))
        config.linux.resources.memory_limit_in_bytes = 16 << 20

    script = "while [ ! -f /go/now ]; do sleep 0.01; done; exec tail /dev/zero"
    container = await killable.client.run(sandbox, "sh", "-c", script, edit=share)
    await killable.kill()
    (go / "now").touch()
    await until((killable.options.exits / container).exists)
    killable.start()
    status = await killable.client.exited(container)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


async def test_killed_at_random_moments_of_making_pods(killable: Killable) -> None:
    """What was acknowledged is there afterwards; what was not is gone or whole."""
    running: list[str] = []
    for number in range(6):
        made: list[str] = []

        async def make(number: int = number, made: list[str] = made) -> None:
            for index in range(20):
                sandbox = await killable.client.sandbox(f"p{number}-{index}")
                made.append(await killable.client.run(sandbox, "sleep", "1000"))

        task = asyncio.ensure_future(make())
        await asyncio.sleep(0.05 + 0.017 * number)
        await killable.kill()
        await asyncio.gather(task, return_exceptions=True)
        killable.start()
        running += made
        for container in running:
            assert (await killable.client.status(container)).state == cri.CONTAINER_RUNNING
    listed = await killable.client.runtime.ListContainers(cri.ListContainersRequest())
    states = {item.id: item.state for item in listed.containers}
    assert set(running) <= set(states)


async def test_a_killed_monitor(killable: Killable) -> None:
    """The container runs on; as it became the runtime's child, its exit code is exact."""
    sandbox = await killable.client.sandbox()
    container = await killable.client.run(sandbox, "sh", "-c", "trap 'exit 9' TERM; while true; do sleep 0.02; done")
    await killable.client.exec(container, "true")
    os.kill(int((killable.options.bundle(container) / "conmon.pid").read_text()), signal.SIGKILL)
    await asyncio.sleep(0.1)
    assert (await killable.client.status(container)).state == cri.CONTAINER_RUNNING
    await killable.client.stop(container, 5)
    status = await killable.client.status(container)
    assert (status.exit_code, status.reason) == (9, "Error")


async def test_monitor_and_runtime_killed(killable: Killable) -> None:
    sandbox = await killable.client.sandbox()
    container = await killable.client.run(sandbox, "sleep", "1000")
    monitor = int((killable.options.bundle(container) / "conmon.pid").read_text())
    process = int((killable.options.bundle(container) / "pid").read_text())
    await killable.kill()
    os.kill(monitor, signal.SIGKILL)
    os.kill(process, signal.SIGKILL)
    killable.start()
    status = await killable.client.exited(container)
    assert (status.exit_code, status.reason) == (255, "ContainerStatusUnknown")


async def test_half_made_records_are_swept_away(base: Path) -> None:
    options = options_in(base)
    async with serving(options) as client:
        sandbox = await client.sandbox()
        container = await client.create(sandbox, "sleep", "1000")
    containers = Records(options.root / "containers", ContainerRecord)
    sandboxes = Records(options.root / "sandboxes", SandboxRecord)
    (options.root / "containers" / container / "state.json").write_text("{")  # as a broken disk leaves it
    (options.run / "containers" / ("0" * 64)).mkdir()
    (record,), _ = sandboxes.load()
    sandboxes.save(SandboxRecord(id="1" * 64, config=record.config, created_at=1, state="creating"))
    async with serving(options) as client:
        listed = await client.runtime.ListPodSandbox(cri.ListPodSandboxRequest())
        assert [item.id for item in listed.items] == [sandbox[0]]
        assert not (await client.runtime.ListContainers(cri.ListContainersRequest())).containers
        assert containers.load() == ([], [])


async def test_a_machine_that_was_started_again(base: Path) -> None:
    """The run directory is empty then: sandboxes are not ready, containers have ended, and all can be removed."""
    options = options_in(base)
    async with serving(options) as client:
        sandbox = await client.sandbox()
        container = await client.run(sandbox, "sleep", "1000")
        await client.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox[0]))
    records = Records(options.root / "sandboxes", SandboxRecord)
    (record,), _ = records.load()
    records.save(SandboxRecord(id=record.id, config=record.config, created_at=1, state="ready"))
    async with serving(options) as client:
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox[0])
        assert (await client.runtime.PodSandboxStatus(request)).status.state == cri.SANDBOX_NOTREADY
        assert (await client.status(container)).state == cri.CONTAINER_EXITED
        await client.remove(sandbox)
