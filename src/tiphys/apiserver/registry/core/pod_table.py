"""The row of a pod, as `kubectl get pods` shows it.

The status column is the pod's phase, unless a reason says it better: of the pod, of an init container that is not done,
or of a container that waits or has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.tables import NONE
from tiphys.machinery.time import human_duration, parse_rfc3339


@dataclass(slots=True)
class _Summary:
    reason: str
    restarts: int = 0
    last_restart: datetime | None = None
    ready: int = 0
    total: int = 0

    def count(self, status: Object) -> None:
        self.restarts += status.get("restartCount") or 0
        finished = ((status.get("lastState") or {}).get("terminated") or {}).get("finishedAt")
        if finished:
            at = parse_rfc3339(finished)
            if self.last_restart is None or at > self.last_restart:
                self.last_restart = at


def pod_row(pod: Object, now: datetime) -> list[Cell]:
    """The cells of one pod."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    summary = _summarize(pod, spec, status)
    restarts = str(summary.restarts)
    if summary.restarts and summary.last_restart is not None:
        restarts = f"{summary.restarts} ({human_duration(now - summary.last_restart)} ago)"
    addresses = [one.get("ip", "") for one in status.get("podIPs") or ()]
    return [
        pod["metadata"].get("name", ""),
        f"{summary.ready}/{summary.total}",
        summary.reason,
        restarts,
        age(pod, now),
        (addresses[0] if addresses else "") or status.get("podIP") or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _gates(spec, status),
    ]


def _gates(spec: Object, status: Object) -> str:
    gates = spec.get("readinessGates") or ()
    if not gates:
        return NONE
    conditions = {one.get("type"): one.get("status") for one in status.get("conditions") or ()}
    passed = sum(conditions.get(gate.get("conditionType")) == "True" for gate in gates)
    return f"{passed}/{len(gates)}"


def _summarize(pod: Object, spec: Object, status: Object) -> _Summary:
    summary = _Summary(status.get("reason") or status.get("phase") or "", total=len(spec.get("containers") or ()))
    for one in status.get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("reason") == "SchedulingGated":
            summary.reason = "SchedulingGated"
    sidecars = {one["name"] for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"}
    summary.total += len(sidecars)
    initializing = _init_containers(spec, status, sidecars, summary)
    if not initializing or _initialized(status):
        _containers(status, sidecars, summary)
    if pod["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            summary.reason = "Unknown"
        elif (status.get("phase") or "") not in ("Succeeded", "Failed"):
            summary.reason = "Terminating"
    return summary


def _initialized(status: Object) -> bool:
    return any(
        one.get("type") == "Initialized" and one.get("status") == "True" for one in status.get("conditions") or ()
    )


def _init_containers(spec: Object, status: Object, sidecars: set[str], summary: _Summary) -> bool:
    """True while an init container stands in the way of the others."""
    blocked = False
    for index, one in enumerate(status.get("initContainerStatuses") or ()):
        state = one.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting")
        sidecar = one.get("name") in sidecars
        summary.ready += sidecar and bool(one.get("ready"))
        summary.count(one)
        if blocked or (terminated is not None and terminated.get("exitCode") == 0):
            continue
        if sidecar and one.get("started"):
            continue
        blocked = True
        if terminated is not None:
            summary.reason = "Init:" + _terminated_reason(terminated)
        elif waiting is not None and waiting.get("reason") and waiting["reason"] != "PodInitializing":
            summary.reason = "Init:" + waiting["reason"]
        else:
            summary.reason = f"Init:{index}/{len(spec.get('initContainers') or ())}"
    return blocked


def _terminated_reason(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _containers(status: Object, sidecars: set[str], summary: _Summary) -> None:
    running = False
    # Once the init containers are done only those that run on count.
    summary.restarts = sum(
        one.get("restartCount") or 0 for one in status.get("initContainerStatuses") or () if one.get("name") in sidecars
    )
    statuses: Iterable[Object] = reversed(status.get("containerStatuses") or [])
    for one in statuses:
        summary.count(one)
        state = one.get("state") or {}
        waiting, terminated = state.get("waiting"), state.get("terminated")
        if waiting is not None and waiting.get("reason"):
            summary.reason = waiting["reason"]
        elif terminated is not None:
            summary.reason = _terminated_reason(terminated)
        elif one.get("ready") and state.get("running") is not None:
            running = True
            summary.ready += 1
    if summary.reason == "Completed" and running:
        ready = any(
            one.get("type") == "Ready" and one.get("status") == "True" for one in status.get("conditions") or ()
        )
        summary.reason = "Running" if ready else "NotReady"
