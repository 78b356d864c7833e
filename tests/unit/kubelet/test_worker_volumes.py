"""When a pod's worker looks at its volumes again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.kubelet.builders import START, make_pod
from tiphys.base.clock import FakeClock
from tiphys.kubelet.pods.services import NodeFacts, PodServices
from tiphys.kubelet.pods.volumes import CurrentVolumes
from tiphys.kubelet.volumes.manager import PodVolumes
from tiphys.kubelet.volumes.plugin import Mounted


class Volumes:
    """Sets up volumes that need renewal; `meanwhile` happens while it does."""

    def __init__(self, refresh_after: float | None) -> None:
        self.refresh_after = refresh_after
        self.count = 0
        self.meanwhile: Callable[[], None] = lambda: None

    async def set_up(self, *_: Any, **__: Any) -> PodVolumes:
        self.count += 1
        self.meanwhile()
        return PodVolumes({"v": Mounted(path=Path("/v"))}, self.refresh_after)


@pytest.mark.parametrize("refresh_after", [None, 2880.0], ids=["no renewal", "a token to renew"])
async def test_a_change_while_volumes_are_set_up_is_not_lost(refresh_after: float | None) -> None:
    volumes = Volumes(refresh_after)
    services = SimpleNamespace(clock=FakeClock(START), volumes=volumes, node=NodeFacts())
    pod = make_pod()
    current = CurrentVolumes(cast("PodServices", services))
    volumes.meanwhile = current.look_now
    await current.current(pod, (), 1.0)
    volumes.meanwhile = lambda: None
    await current.current(pod, (), 1.0)
    assert volumes.count == 2
    await current.current(pod, (), 1.0)
    assert volumes.count == 2
