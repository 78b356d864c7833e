"""PrioritySort: higher priority first, then first come, first served."""

from __future__ import annotations

from typing import ClassVar

from tiphys.scheduler.framework.events import Requeue
from tiphys.scheduler.framework.interface import QueuedPod


class PrioritySort:
    name: ClassVar[str] = "PrioritySort"
    requeue_on: ClassVar[Requeue] = {}

    def sort_key(self, pod: QueuedPod) -> tuple[int, float]:
        return -pod.info.priority, pod.timestamp
