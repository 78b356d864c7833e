"""The kubelet's manager of pods, without a runtime: what it decides, and no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

from tests.unit.kubelet.builders import START
from tiphys.api.core.v1 import Pod
from tiphys.base.clock import FakeClock
from tiphys.kubelet.pods.manager import PodManager
from tiphys.kubelet.pods.services import NodeFacts, PodServices
from tiphys.kubelet.status.pod_status import Verdict


class ManagerAlone:
    """A manager of pods whose workers' work is run by hand."""

    def __init__(self, **allocatable: str) -> None:
        async def admit(*_: Any) -> None:
            return None

        self.work: list[Callable[[], Awaitable[None]]] = []
        self.refused: Callable[[Pod, Verdict], None] = lambda *_: None
        services = SimpleNamespace(
            clock=FakeClock(START),
            node=NodeFacts(allocatable={"cpu": "4", "memory": "8Gi", "pods": "110", **allocatable}),
            flags=SimpleNamespace(node_name="node-1"),
            status=SimpleNamespace(with_status=lambda pod: pod, observe=lambda *_: None),
            containers=SimpleNamespace(admit=admit),
            event=lambda *_: None,
            refused=lambda pod, verdict: self.refused(pod, verdict),
        )
        self.manager = PodManager(cast("PodServices", services), self.spawn)

    def spawn(self, work: Callable[[], Awaitable[None]], **_: Any) -> Any:
        self.work.append(work)
        return None
