"""Tells kubelets how long they may keep secrets and config maps, by the size of the cluster.

An annotation of every node, in seconds: the more nodes, the longer, so that the API server is not
asked too often. The ranges overlap, so that a cluster at a boundary does not go back and forth.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tiphys.api.core.v1 import Node
from tiphys.client import DONE, Controller, PatchType, Result, enqueue
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

ANNOTATION: Final = "node.alpha.kubernetes.io/ttl"


@dataclass(frozen=True, slots=True)
class Step:
    """Up to `most` nodes, and down to `least`, the time is `seconds`."""

    least: int
    most: float
    seconds: int


STEPS: Final = (
    Step(0, 100, 0),
    Step(90, 500, 15),
    Step(450, 1000, 30),
    Step(900, 2000, 60),
    Step(1800, 10000, 300),
    Step(9000, float("inf"), 600),
)


def step_for(nodes: int, current: int) -> int:
    """The index in STEPS for a number of nodes, coming from step `current`."""
    while nodes > STEPS[current].most:
        current += 1
    while nodes < STEPS[current].least:
        current -= 1
    return current


class TTLController(Controller[ObjectName]):
    """The controller `ttl-controller`."""

    name = "ttlcontroller"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._nodes = context.informers.of(Node)
        self._step = 0
        super().__init__(context.clock, (self._nodes,))
        enqueue(self.queue, self._nodes)
        self._nodes.add_handler(lambda _: self._counted(), None, lambda _: self._counted())

    def _counted(self) -> None:
        step = step_for(len(self._nodes.lister), self._step)
        if step != self._step:
            self._step = step
            self._nodes.resync()

    async def sync(self, key: ObjectName) -> Result:
        """Write the annotation of one node where it differs."""
        node = self._nodes.lister.get(key)
        wanted = str(STEPS[self._step].seconds)
        if node is not None and node.metadata.annotations.get(ANNOTATION) != wanted:
            patch = {"metadata": {"annotations": {ANNOTATION: wanted}}}
            with suppress(NotFoundError):
                await self._client.patch(Node, key, patch, patch_type=PatchType.STRATEGIC)
        return DONE
