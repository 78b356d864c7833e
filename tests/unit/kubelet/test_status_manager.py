"""What is written to the API, and what is left to others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec.structs import replace

from tests.unit.kubelet.builders import make_pod
from tiphys.api.core.v1 import Pod, PodCondition
from tiphys.base.clock import SystemClock
from tiphys.kubelet.pod import uid_of
from tiphys.kubelet.status.manager import StatusManager


class Api:
    """Takes patches of a pod's status and answers with a newer version."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.patches: list[dict[str, Any]] = []

    async def patch(self, kind: type[Pod], name: object, patch: dict[str, Any], **_: object) -> Pod:
        self.patches.append(patch["status"])
        self.pod = versioned(self.pod, int(self.pod.metadata.resource_version) + 1)
        return self.pod


def versioned(pod: Pod, version: int) -> Pod:
    return replace(pod, metadata=replace(pod.metadata, resource_version=str(version)))


def with_conditions(pod: Pod, **conditions: str) -> Pod:
    made = tuple(PodCondition(type=kind, status=status) for kind, status in conditions.items())
    return replace(pod, status=replace(pod.status, conditions=made))


async def test_conditions_of_others_are_never_sent_back() -> None:
    def spawn(work: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> asyncio.Task[None]:
        return asyncio.create_task(work(), name=name)

    pod = versioned(with_conditions(make_pod("c"), PodScheduled="True", gate="False"), 1)
    api, uid = Api(pod), uid_of(pod)
    manager = StatusManager(api, SystemClock(), spawn)  # type: ignore[arg-type]  # all it asks of the client
    manager.set(uid, pod, with_conditions(pod, Ready="False", PodScheduled="True", gate="False").status)
    await manager.flushed(uid)
    assert api.patches == [{"conditions": [{"type": "Ready", "status": "False"}]}]
    # Somebody opens the gate; what was made from the version before must not close it again.
    opened = versioned(with_conditions(pod, PodScheduled="True", gate="True", Ready="False"), 3)
    manager.observe(uid, opened)
    await manager.flushed(uid)
    assert len(api.patches) == 1
    shown = {one.type: one.status for one in manager.with_status(opened).status.conditions}
    assert shown == {"Ready": "False", "PodScheduled": "True", "gate": "True"}
