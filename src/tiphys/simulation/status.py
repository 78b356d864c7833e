"""The status a kubelet would write for each step of a simulated pod, as a strategic merge patch."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tiphys.machinery.time import format_time
from tiphys.simulation.life import Step, exit_code, gates_open
from tiphys.simulation.views import ContainerView, PodView

Json = dict[str, Any]
SIGTERM_EXIT = 143


def patch_for(step: Step, pod: PodView, now: datetime, ip: str, host_ip: str, ready_now: bool) -> Json:
    """The patch of pods/status. `ip` is the pod's address, "" for none; `ready_now`: START makes it ready at once."""
    match step:
        case Step.START:
            status = _running(pod, now, ready_now)
        case Step.READY:
            status = _running(pod, now, True)
        case Step.BACK_OFF:
            status = _backing_off(pod, now)
        case _:
            status = _ended(pod, now, SIGTERM_EXIT if step is Step.STOP else exit_code(pod))
    if step is Step.START and not pod.status.pod_ip:
        status["startTime"] = format_time(now)
        if host_ip:
            status["hostIP"], status["hostIPs"] = host_ip, [{"ip": host_ip}]
        if ip:
            status["podIP"], status["podIPs"] = ip, [{"ip": ip}]
    status["observedGeneration"] = pod.metadata.generation
    # A pod of the same name made meanwhile is another one.
    return {"metadata": {"uid": pod.metadata.uid}, "status": status}


def _running(pod: PodView, now: datetime, ready: bool) -> Json:
    was = pod.status.container_statuses
    statuses = []
    for number, container in enumerate(pod.spec.containers):
        before = was[number] if number < len(was) else None
        running = before.state.running if before else None
        status = _container(container, ready=ready, restarts=before.restart_count if before else 0)
        if before is not None and running is None:
            status["restartCount"] += 1
        started = (running.started_at if running else None) or now
        status["state"] = {"running": {"startedAt": format_time(started)}}
        statuses.append(status)
    found: Json = {
        "phase": "Running",
        "containerStatuses": statuses,
        "conditions": _conditions(pod, now, ready, "ContainersNotReady", pod.spec.containers),
    }
    if pod.spec.init_containers:
        found["initContainerStatuses"] = [_initialized(each, now) for each in pod.spec.init_containers]
    return found


def _backing_off(pod: PodView, now: datetime) -> Json:
    statuses = []
    for container, before in zip(pod.spec.containers, pod.status.container_statuses, strict=False):
        status = _container(container, ready=False, restarts=before.restart_count)
        running = before.state.running
        ended = _terminated((running.started_at if running else None) or now, now, exit_code(pod))
        status["lastState"] = {"terminated": ended}
        status["state"] = {
            "waiting": {
                "reason": "CrashLoopBackOff",
                "message": f"back-off restarting failed container={container.name} "
                f"pod={pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})",
            }
        }
        statuses.append(status)
    return {
        "containerStatuses": statuses,
        "conditions": _conditions(pod, now, False, "ContainersNotReady", pod.spec.containers),
    }


def _ended(pod: PodView, now: datetime, code: int) -> Json:
    statuses = []
    was = pod.status.container_statuses
    for number, container in enumerate(pod.spec.containers):
        before = was[number] if number < len(was) else None
        running = before.state.running if before else None
        status = _container(container, ready=False, restarts=before.restart_count if before else 0)
        status["state"] = {"terminated": _terminated((running.started_at if running else None) or now, now, code)}
        statuses.append(status)
    reason = "PodFailed" if code else "PodCompleted"
    return {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": statuses,
        "conditions": _conditions(pod, now, False, reason, ()),
    }


def _terminated(started: datetime, now: datetime, code: int) -> Json:
    return {
        "exitCode": code,
        "reason": "Error" if code else "Completed",
        "startedAt": format_time(started),
        "finishedAt": format_time(now),
    }


def _container(container: ContainerView, *, ready: bool, restarts: int) -> Json:
    return {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "ready": ready,
        "started": ready,
        "restartCount": restarts,
        "lastState": {},
        "state": {},
    }


def _initialized(container: ContainerView, now: datetime) -> Json:
    sidecar = container.restart_policy == "Always"
    status = _container(container, ready=True, restarts=0)
    status["state"] = (
        {"running": {"startedAt": format_time(now)}} if sidecar else {"terminated": _terminated(now, now, 0)}
    )
    return status


def _conditions(
    pod: PodView, now: datetime, ready: bool, reason: str, unready: tuple[ContainerView, ...]
) -> list[Json]:
    """All the kubelet's conditions; those of others are merged by the server, which matches them by type."""
    ended = reason in ("PodCompleted", "PodFailed")
    message = "" if ended else f"containers with unready status: [{' '.join(each.name for each in unready)}]"
    down: Json = {"reason": reason, "message": message} if message else {"reason": reason}
    states: dict[str, tuple[bool, Json]] = {
        "PodReadyToStartContainers": (not ended, {}),
        "Initialized": (True, {"reason": "PodCompleted"} if reason == "PodCompleted" else {}),
        "ContainersReady": (ready, down),
        "Ready": (ready and gates_open(pod), down),
    }
    if ready and not gates_open(pod):
        gates = ('corresponding condition of pod readiness gate "{}" does not exist.', pod.spec.readiness_gates)
        words = ", ".join(gates[0].format(gate.condition_type) for gate in gates[1])
        states["Ready"] = (False, {"reason": "ReadinessGatesNotReady", "message": words})
    found = []
    for kind, (true, because) in states.items():
        before = pod.condition(kind)
        value = "True" if true else "False"
        same = before is not None and before.status == value and before.last_transition_time is not None
        since = before.last_transition_time if before is not None and same else None
        condition = {
            "type": kind,
            "status": value,
            "observedGeneration": pod.metadata.generation,
            "lastProbeTime": None,
            "lastTransitionTime": format_time(since or now),
            # Of the last state nothing may stay.
            "reason": None,
            "message": None,
        }
        if not true or kind == "Initialized":
            condition |= because
        found.append(condition)
    return found
