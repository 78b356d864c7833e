"""Counts how containers end: `kubelet_terminated_containers_total`, by kind, exit code and reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.base.metrics import REGISTRY
from tiphys.kubelet.cri.state import RuntimeContainer
from tiphys.kubelet.pod import container_type
from tiphys.kubelet.status.containers import ending_reason

# Neither names nor namespaces: a series for each of them would grow without end.
TERMINATED: Final = REGISTRY.counter(
    "kubelet_terminated_containers_total",
    "Cumulative number of container terminations, by type, exit code and reason",
    ("container_type", "exit_code", "reason"),
)


def count_terminations(pod: Pod, ended: Iterable[RuntimeContainer]) -> None:
    """Count containers that were just seen to have ended; each once, which is for the caller to know."""
    for container in ended:
        TERMINATED.labels(container_type(pod, container.name), str(container.exit_code), ending_reason(container)).inc()
