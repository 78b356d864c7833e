"""The whole PodStatus, put together from containers, phase, conditions and addresses. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from msgspec.structs import replace

from tiphys.api.core.v1 import HostIP, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements
from tiphys.kubelet.cri.state import RuntimePod
from tiphys.kubelet.pod import is_terminal
from tiphys.kubelet.qos import qos_class
from tiphys.kubelet.resources import pod_amounts
from tiphys.kubelet.status.conditions import pod_conditions, restarting_condition, with_transitions
from tiphys.kubelet.status.containers import (
    ContainerFacts,
    ephemeral_statuses,
    init_statuses,
    regular_statuses,
)
from tiphys.kubelet.status.phase import pod_phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision of the kubelet that ends the pod: eviction, deadline, refused admission.

    `condition` is the DisruptionTarget condition that goes with an eviction.
    """

    reason: str
    message: str
    condition: PodCondition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusInputs:
    """What a status is made of besides the pod and its runtime state."""

    now: datetime
    host_ips: tuple[str, ...]
    containers: ContainerFacts
    verdict: Verdict | None = None
    stopped: bool = False  # the pod was stopped for good and nothing of it runs
    resources: ResourceRequirements | None = None  # the pod's own, as they are in force
    resize: tuple[PodCondition, ...] = ()  # conditions of a resize that is not over
    restarting: bool = False  # all containers are on the way to a new start


def make_pod_status(pod: Pod, runtime: RuntimePod, inputs: StatusInputs) -> PodStatus:
    """The status to report. `pod.status` is the last one reported; it supplies what must not be forgotten."""
    init = init_statuses(pod, runtime, inputs.containers)
    initialized = not pod.spec.init_containers
    regular = regular_statuses(pod, runtime, inputs.containers, initialized=initialized)
    phase = _phase(pod, pod_phase(pod, init, regular, terminating_done=inputs.stopped), inputs)
    old = pod.status
    fresh = pod_conditions(pod, init, regular, phase, sandbox_ready=_sandbox_ready(pod, runtime))
    now = inputs.now.replace(microsecond=0)
    if inputs.verdict is not None and inputs.verdict.condition is not None:
        fresh = (*fresh, inputs.verdict.condition)
    if phase not in ("Succeeded", "Failed"):
        fresh = (*fresh, *inputs.resize)
        fresh = (*fresh, restarting_condition(pod)) if inputs.restarting else fresh
    own = pod.spec.resources
    granted = pod_amounts(pod, "requests", overhead=False)
    pod_ips = _pod_ips(pod, runtime, inputs.host_ips)
    return PodStatus(
        observed_generation=pod.metadata.generation,
        phase=phase,
        conditions=with_transitions(fresh, old.conditions, now),
        reason=inputs.verdict.reason if inputs.verdict else old.reason,
        message=inputs.verdict.message if inputs.verdict else old.message,
        host_ip=inputs.host_ips[0] if inputs.host_ips else "",
        host_ips=tuple(HostIP(ip=ip) for ip in inputs.host_ips),
        pod_ip=pod_ips[0] if pod_ips else "",
        pod_ips=tuple(PodIP(ip=ip) for ip in pod_ips),
        start_time=old.start_time or now,
        init_container_statuses=init,
        container_statuses=regular,
        ephemeral_container_statuses=ephemeral_statuses(pod, runtime, inputs.containers),
        qos_class=old.qos_class or qos_class(pod),
        nominated_node_name=old.nominated_node_name,
        resource_claim_statuses=old.resource_claim_statuses,
        extended_resource_claim_status=old.extended_resource_claim_status,
        allocated_resources={name: str(amount) for name, amount in granted.items()},
        resources=(inputs.resources or own) if own is not None else None,
    )


def rejected_status(pod: Pod, verdict: Verdict, now: datetime) -> PodStatus:
    """The status of a pod that the node did not take."""
    return replace(
        pod.status,
        observed_generation=pod.metadata.generation,
        phase="Failed",
        reason=verdict.reason,
        message=verdict.message,
        start_time=pod.status.start_time or now.replace(microsecond=0),
        qos_class=pod.status.qos_class or qos_class(pod),
    )


def _phase(pod: Pod, computed: str, inputs: StatusInputs) -> str:
    if is_terminal(pod):
        return pod.status.phase  # a finished pod stays finished
    if inputs.verdict is not None:
        return "Failed"
    deleting = pod.metadata.deletion_timestamp is not None
    if computed in ("Succeeded", "Failed") and not inputs.stopped and (deleting or inputs.restarting):
        # Controllers may replace a terminal pod: not before its processes have really gone.
        return pod.status.phase or "Pending"
    return computed


def _sandbox_ready(pod: Pod, runtime: RuntimePod) -> bool:
    sandbox = runtime.sandbox
    return sandbox is not None and sandbox.ready and (bool(pod.spec.host_network) or bool(sandbox.ips))


def _pod_ips(pod: Pod, runtime: RuntimePod, host_ips: tuple[str, ...]) -> tuple[str, ...]:
    if pod.spec.host_network:
        return host_ips if runtime.sandbox is not None or pod.status.pod_ips else ()
    if runtime.sandbox is not None and runtime.sandbox.ips:
        return runtime.sandbox.ips
    return tuple(item.ip for item in pod.status.pod_ips)
