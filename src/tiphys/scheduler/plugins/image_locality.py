"""ImageLocality: prefers nodes that already have the pod's images, weighed by how widely each is spread.

    sum over containers of size * (nodes that have it / nodes), then 0..100 between 23 MB and 1000 MB a container

The spread keeps the first node with an image from drawing everything to itself.
"""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from tiphys.scheduler.framework.events import Requeue
from tiphys.scheduler.framework.interface import MAX_SCORE, CycleState
from tiphys.scheduler.nodetable import Mask, NodeTable, Numbers
from tiphys.scheduler.podinfo import PodInfo

MB: Final = 1024 * 1024
SMALLEST: Final = 23.0 * MB
LARGEST: Final = 1000.0 * MB  # for each container


def normalized(image: str) -> str:
    """Node statuses name images with a tag; the default is `latest`."""
    return image if ":" in image.rpartition("/")[2] or "@" in image else f"{image}:latest"


class ImageLocality:
    name: ClassVar[str] = "ImageLocality"
    requeue_on: ClassVar[Requeue] = {}

    def score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Numbers | None:
        containers = (*pod.pod.spec.init_containers, *pod.pod.spec.containers)
        total: Numbers | None = None
        for container in containers:
            name = normalized(container.image)
            holders = len(nodes.image_rows(name))
            if not holders:
                continue
            scaled = np.floor(nodes.image_sizes(name) * (holders / len(nodes)))
            total = scaled if total is None else total + scaled
        if total is None:
            return None
        largest = LARGEST * len(containers)
        clipped = np.clip(total, SMALLEST, largest)
        scores: Numbers = np.floor(MAX_SCORE * (clipped - SMALLEST) / (largest - SMALLEST))
        return scores
