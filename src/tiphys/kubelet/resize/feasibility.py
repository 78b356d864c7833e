"""Whether the node can grant a resize: now, later, or never. Pure.

https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/#pod-resize-status
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.pod import is_static
from tiphys.kubelet.pods.admission import lacking_resource
from tiphys.kubelet.qos import BURSTABLE, GUARANTEED, qos_class
from tiphys.kubelet.resize.allocation import RESIZABLE
from tiphys.kubelet.resources import pod_amounts
from tiphys.machinery.quantity import Quantity

DEFERRED: Final = "Deferred"
INFEASIBLE: Final = "Infeasible"
_CLASS_ORDER: Final = {GUARANTEED: 0, BURSTABLE: 1}

Reason = Literal["Deferred", "Infeasible"]


@dataclass(frozen=True, slots=True)
class Pending:
    """Why a resize was not granted: a word of the API, and what was lacking."""

    reason: Reason
    message: str


def judge(pod: Pod, others: Sequence[Pod], allocatable: Mapping[str, str]) -> Pending | None:
    """Why the node cannot give `pod` what it asks for beside what the `others` were granted; None when it can."""
    if is_static(pod):
        return Pending(INFEASIBLE, "In-place resize of static-pods is not supported")
    requests = pod_amounts(pod, "requests")
    for name in RESIZABLE:
        asked, capacity = requests.get(name), Quantity.parse(allocatable.get(name, "0"))
        if asked is not None and asked > capacity:
            return Pending(
                INFEASIBLE,
                f"Node didn't have enough capacity: {name}, requested: {_plain(name, asked)}, "
                f"capacity: {_plain(name, capacity)}",
            )
    lacking = lacking_resource(pod, others, allocatable)
    return Pending(DEFERRED, lacking) if lacking is not None else None


def _plain(name: str, amount: Quantity) -> int:
    """Thousandths of a CPU, bytes."""
    return amount.milli_value() if name == "cpu" else amount.value()


def retry_order(pod: Pod, since: float) -> tuple[int, int, float]:
    """Sorts pods whose resize waits, `since` when, by who is tried first: priority, class, patience (KEP-1287)."""
    return (-(pod.spec.priority or 0), _CLASS_ORDER.get(qos_class(pod), 2), since)
