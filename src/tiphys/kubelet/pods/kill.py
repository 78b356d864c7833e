"""Ends containers and pods: preStop, the stop signal, the grace period, the kill.

```
 all regular and ephemeral containers at once ──► sidecars, the last started first ──► sandbox
 └────────────────────── one grace period for the whole pod ─────────────────────┘
```
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination
"""

from __future__ import annotations

import asyncio
from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.base.log import get_logger
from tiphys.kubelet.containers.hooks import HookError, run_hook
from tiphys.kubelet.cri import labels
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod
from tiphys.kubelet.pod import AnyContainer, container_named, grace_period, is_sidecar
from tiphys.kubelet.pods.actions import Kill
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.waiting import within

log = get_logger(__name__)

# A container whose grace was used up by its preStop hook still gets a moment for its signal.
MINIMUM_GRACE: Final = 2.0  # seconds


async def kill_pod(services: PodServices, pod: Pod | None, runtime: RuntimePod, *, grace: float | None = None) -> None:
    """Stop every container of the pod and then its sandboxes; returns when all of it has stopped.

    `grace` overrides the pod's own period (seconds). `pod` None: a pod that is known from the runtime alone.
    """
    clock = services.clock
    began = clock.monotonic()
    whole = _grace(pod, runtime, grace)

    def left() -> float:
        return max(0.0, whole - (clock.monotonic() - began))

    sidecars = [c.name for c in pod.spec.init_containers if is_sidecar(c)] if pod else []
    first = [container for container in runtime.running if container.name not in sidecars]
    forced = grace is not None
    await asyncio.gather(*(stop_container(services, pod, container, whole, forced=forced) for container in first))
    for name in reversed(sidecars):
        container = runtime.container(name)
        if container is not None and container in runtime.running:
            await stop_container(services, pod, container, left(), forced=forced)
    for sandbox in runtime.sandboxes:
        await services.runtime.stop_sandbox(sandbox.id)


async def kill_for_action(services: PodServices, pod: Pod, kill: Kill) -> None:
    """Stop one container because of an action; a probe may bring its own grace period."""
    container = container_named(pod, kill.container.name)
    await stop_container(services, pod, kill.container, _probe_grace(pod, container, kill), message=kill.message)


async def stop_container(
    services: PodServices,
    pod: Pod | None,
    container: RuntimeContainer,
    grace: float,
    *,
    message: str = "",
    forced: bool = False,
) -> None:
    """Run preStop, then let the runtime stop the container, in `grace` seconds altogether."""
    spec = container_named(pod, container.name) if pod else None
    if pod is not None:
        services.event(pod, "Normal", "Killing", message or f"Stopping container {container.name}", spec)
    spent = 0.0
    if pod is not None and spec is not None and grace > 0 and container.running:
        spent = await _pre_stop(services, pod, spec, container, grace)
    left = max(0.0, grace - spent)
    if not forced:
        left = max(left, MINIMUM_GRACE)
    try:
        await services.runtime.stop_container(container.id, left)
    except CRIError as error:
        log.warning("stopping container %s failed: %s", container.name, error)
        raise


async def _pre_stop(
    services: PodServices, pod: Pod, spec: AnyContainer, container: RuntimeContainer, grace: float
) -> float:
    """Run the hook, if there is one, for at most `grace` seconds; returns how long it took."""
    handler = spec.lifecycle.pre_stop if spec.lifecycle else None
    if handler is None:
        return 0.0
    began = services.clock.monotonic()
    address = pod.status.pod_ip
    try:
        await within(
            run_hook(services.runtime, services.clock, handler, spec, container.id, address), services.clock, grace
        )
    except TimeoutError:
        log.info("preStop of container %s did not end within its %g seconds", container.name, grace)
    except HookError as error:
        services.event(pod, "Warning", "FailedPreStopHook", f"PreStopHook failed: {error}", spec)
    return services.clock.monotonic() - began


def _grace(pod: Pod | None, runtime: RuntimePod, override: float | None) -> float:
    if override is not None:
        return override
    if pod is not None:
        return grace_period(pod).total_seconds()
    noted = [container.annotations.get(labels.POD_GRACE_PERIOD, "") for container in runtime.containers]
    known = [float(text) for text in noted if text.isdigit()]
    return max(known, default=30.0)


def _probe_grace(pod: Pod, container: AnyContainer | None, kill: Kill) -> float:
    probe = None
    if container is not None and kill.reason == "FailedLivenessProbe":
        probe = container.liveness_probe
    elif container is not None and kill.reason == "FailedStartupProbe":
        probe = container.startup_probe
    if probe is not None and probe.termination_grace_period_seconds is not None:
        return float(probe.termination_grace_period_seconds)
    return grace_period(pod).total_seconds()
