"""The end of a pause process: with it goes the PID namespace of the sandbox, and so the sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import grpc
import pytest

from tests.e2e.runtime.harness import Client, until
from tests.e2e.runtime.test_recovery import Killable, killable
from tests.e2e.runtime.test_security import shared
from tiphys.api.cri import api_pb2 as cri
from tiphys.runtime.options import RuntimeOptions

__all__ = ["killable"]  # a fixture


def pauses(options: RuntimeOptions) -> list[int]:
    """The pause processes that were started and are not cleaned away."""
    bundles = list((options.run / "containers").iterdir())
    paused = [b for b in bundles if json.loads((b / "config.json").read_text())["process"]["args"] == ["/pause"]]
    return [int((bundle / "pid").read_text()) for bundle in paused]


async def not_ready(client: Client, sandbox: str) -> None:
    """Return when the sandbox is NOTREADY."""
    async with asyncio.timeout(20):
        while True:
            answer = await client.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox))
            if answer.status.state == cri.SANDBOX_NOTREADY:
                return
            await asyncio.sleep(0.01)


async def test_a_sandbox_is_not_ready_without_its_pause_process(cri_client: Client) -> None:
    events: list[tuple[str, int]] = []

    async def listen() -> None:
        async for event in cri_client.runtime.GetContainerEvents(cri.GetEventsRequest()):
            # As it was when the event was sent: whoever hears of a container's end knows its sandbox's too.
            state = event.pod_sandbox_status.state
            if event.container_event_type == cri.CONTAINER_STOPPED_EVENT:
                events.append((event.container_id, state))

    listening = asyncio.ensure_future(listen())
    await asyncio.sleep(0.1)
    sandbox = await cri_client.sandbox(edit=shared)
    container = await cri_client.run(sandbox, "sleep", "1000")
    (pause,) = pauses(cri_client.options)
    os.kill(pause, signal.SIGKILL)
    assert (await cri_client.exited(container)).exit_code == 137
    await not_ready(cri_client, sandbox[0])
    with pytest.raises(grpc.aio.AioRpcError, match="is not running"):
        await cri_client.create(sandbox, "sleep", "1000", name="again")
    await until(lambda: len(events) == 2)
    assert sorted(events) == sorted([(sandbox[0], cri.SANDBOX_NOTREADY), (container, cri.SANDBOX_NOTREADY)])
    await cri_client.remove(sandbox)
    listening.cancel()
    assert len(events) == 2, "a sandbox stops once"


async def test_a_pause_process_that_ends_while_nobody_watches(killable: Killable) -> None:
    sandbox = await killable.client.sandbox(edit=shared)
    container = await killable.client.run(sandbox, "sleep", "1000")
    (pause,) = pauses(killable.options)
    await killable.kill()
    os.kill(pause, signal.SIGKILL)
    killable.start()
    await not_ready(killable.client, sandbox[0])
    assert (await killable.client.exited(container)).exit_code == 137


async def test_only_shared_process_ids_need_a_pause_process(cri_client: Client) -> None:
    """What a sandbox has no process for cannot be killed: its namespaces stay by themselves."""
    sandbox = await cri_client.sandbox()
    container = await cri_client.run(sandbox, "sleep", "1000")
    assert pauses(cri_client.options) == []
    await cri_client.stop(container)
    answer = await cri_client.runtime.PodSandboxStatus(cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox[0]))
    assert answer.status.state == cri.SANDBOX_READY
    assert (await cri_client.output(sandbox, "hostname", name="again")) == "pod"
