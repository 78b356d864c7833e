"""How many pods and containers the node has, counted when it is asked for: `kubelet_running_pods` and its like.

```
 desired   every pod of the sources that is not being taken away
 active    those that count when a pod asks for room: all but the ended
 mirror    one a static pod that the node took
 running   what the runtime has, as the workers saw it last
```
https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.base.metrics import REGISTRY
from tiphys.kubelet.pod import is_static
from tiphys.kubelet.pods.manager import PodManager

Series = Iterator[tuple[tuple[str, ...], float]]
_CONSIDERED: Final = "which are being considered when admitting new pods"
_OF_STATIC: Final = "static is true if the pod is not from the apiserver."


class PodCounts:
    """The numbers of one node's pods."""

    def __init__(self, node_name: str, manager: PodManager) -> None:
        self._node_name = node_name
        self._manager = manager

    def expose(self) -> list[Callable[[], None]]:
        """Add the families to what is exposed; what is returned takes them away."""
        families: tuple[tuple[str, str, tuple[str, ...], Callable[[], Series]], ...] = (
            ("node_name", "The node's name. The count is always 1.", ("node",), self._node),
            ("running_pods", "Number of pods that have a running pod sandbox", (), self._running),
            ("running_containers", "Number of containers currently running", ("container_state",), self._containers),
            (
                "desired_pods",
                f"The number of pods the kubelet is being instructed to run. {_OF_STATIC}",
                ("static",),
                self._desired,
            ),
            (
                "active_pods",
                f"The number of pods the kubelet considers active and {_CONSIDERED}. {_OF_STATIC}",
                ("static",),
                self._active,
            ),
            (
                "mirror_pods",
                "The number of mirror pods the kubelet will try to create (one per admitted static pod)",
                (),
                self._mirrors,
            ),
        )
        return [
            REGISTRY.computed("gauge", f"kubelet_{name}", f"[ALPHA] {text}", labels, series)
            for name, text, labels, series in families
        ]

    def _node(self) -> Series:
        yield (self._node_name,), 1

    def _running(self) -> Series:
        yield (), sum(worker.runtime.ready_sandbox is not None for worker in self._manager.workers.values())

    def _containers(self) -> Series:
        workers = self._manager.workers.values()
        found = Counter(container.state.value for worker in workers for container in worker.runtime.containers)
        for state, number in found.items():
            yield (state,), number

    def _desired(self) -> Series:
        return _by_source(worker.pod for worker in self._manager.workers.values() if not worker.removed)

    def _active(self) -> Series:
        return _by_source(self._manager.active())

    def _mirrors(self) -> Series:
        workers = self._manager.workers.values()
        yield (), sum(is_static(worker.pod) and not worker.removed and not worker.refused for worker in workers)


def _by_source(pods: Iterable[Pod]) -> Series:
    """By the label `static`: "true" for static pods, "" for the API's, as upstream writes it."""
    found = Counter(is_static(pod) for pod in pods)
    yield ("",), found[False]
    yield ("true",), found[True]
