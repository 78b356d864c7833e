"""The phase of a pod from the states of its containers.

https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase
"""

from __future__ import annotations

from collections.abc import Sequence

from tiphys.api.core.v1 import Container, ContainerStatus, Pod
from tiphys.kubelet.pod import container_restart_policy, is_sidecar, restart_policy
from tiphys.kubelet.pods.restart import restarts_after_exit


def pod_phase(
    pod: Pod, init: Sequence[ContainerStatus], regular: Sequence[ContainerStatus], *, terminating_done: bool = False
) -> str:
    """Pending, Running, Succeeded or Failed.

    `terminating_done` says that the pod was stopped and nothing of it runs, so that containers which
    would otherwise be restarted count as ended for good.
    """
    pending, failed = _initialization(pod, init, regular)
    if failed and not terminating_done:
        return "Failed"
    waiting = running = unseen = 0
    ended: list[tuple[Container, int]] = []
    by_name = {status.name: status for status in regular}
    for container in pod.spec.containers:
        status = by_name.get(container.name)
        state = status.state if status else None
        if status is None or state is None:
            unseen += 1
        elif state.running is not None:
            running += 1
        elif state.terminated is not None:
            ended.append((container, state.terminated.exit_code))
        elif status.last_state is not None and status.last_state.terminated is not None:
            ended.append((container, status.last_state.terminated.exit_code))
        else:
            waiting += 1
    if terminating_done:
        # Whatever never ran cannot have succeeded.
        good = not waiting and not unseen and not failed and all(code == 0 for _, code in ended)
        return "Succeeded" if good and ended else "Failed"
    if pending or waiting or unseen:
        return "Pending"
    if running or not ended:
        return "Running"
    if any(_comes_back(pod, container, code) for container, code in ended):
        return "Running"
    return "Succeeded" if all(code == 0 for _, code in ended) else "Failed"


def _initialization(
    pod: Pod, statuses: Sequence[ContainerStatus], regular: Sequence[ContainerStatus]
) -> tuple[bool, bool]:
    """(some init container has still to do its part, one failed for good)."""
    pending = False
    by_name = {status.name: status for status in statuses}
    for container in pod.spec.init_containers:
        status = by_name.get(container.name)
        if is_sidecar(container):
            pending = pending or status is None or not status.started
            continue
        terminated = status.state.terminated if status and status.state else None
        if terminated is None:
            pending = True
        elif terminated.exit_code != 0:
            pending = True
            if not restarts_after_exit(pod, container, terminated.exit_code):
                return pending, True
    # A sidecar that is down while the regular containers run is not initialization again.
    return pending and not _seen(regular), False


def _seen(statuses: Sequence[ContainerStatus]) -> bool:
    return any(
        status.state is not None and (status.state.running is not None or status.state.terminated is not None)
        for status in statuses
    )


def _comes_back(pod: Pod, container: Container, code: int) -> bool:
    if restart_policy(pod) == "Always" and not container.restart_policy:
        return True
    return container_restart_policy(pod, container) == "Always" or restarts_after_exit(pod, container, code)
