"""What plugins may use: given to each when it is made. Everything is read through caches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from tiphys.api.core.v1 import Pod
from tiphys.base.clock import Clock
from tiphys.client import Client, Informers
from tiphys.machinery.selectors import LabelSelector
from tiphys.scheduler.extender import Extenders
from tiphys.scheduler.podinfo import PodInfo


class Namespaces(Protocol):
    """The labels of namespaces."""

    def labels(self, name: str) -> Mapping[str, str]: ...

    def matching(self, selector: LabelSelector) -> Iterable[str]:
        """Names of the namespaces whose labels match."""


class Nominator(Protocol):
    """Pods that wait for a node on which room is being made for them."""

    def nominated_on(self, node: str) -> Iterable[PodInfo]: ...

    def rivals_on(self, node: str, pod: PodInfo) -> Sequence[PodInfo]:
        """Those of the node that are at least as important as `pod`, which is not among them."""

    def nominate(self, pod: PodInfo, node: str | None, victims: frozenset[str] = frozenset()) -> None:
        """Record, move or (None) end a nomination; `victims` are the uids of pods that must go first."""

    def node_of(self, uid: str) -> str | None:
        """The node a pod is nominated to."""

    def victims_of(self, uid: str) -> frozenset[str]:
        """The victims of a nominated pod, as it was said, whether they have gone or not."""


class Events(Protocol):
    """Records events about objects."""

    def event(self, obj: Pod, type_: str, reason: str, message: str) -> None: ...


# Starts work beside the scheduling loop; its errors are its own.
Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]], str], None]


@dataclass(frozen=True, slots=True)
class Handle:
    """The scheduler as its plugins see it."""

    client: Client
    informers: Informers
    namespaces: Namespaces
    nominator: Nominator
    events: Events
    clock: Clock
    random: Random
    scheduler_name: str
    extenders: Extenders = field(default_factory=Extenders)
    spawn: Spawn = lambda work, name: None  # work beside the scheduling loop
    writes: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(16)
    )  # what binding cycles write at once
