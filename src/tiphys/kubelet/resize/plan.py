"""What is left to do until every running container has the resources it was granted. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tiphys.api.core.v1 import Container, Pod, ResourceRequirements
from tiphys.kubelet.cgroups.tree import Limits
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod
from tiphys.kubelet.pod import is_sidecar
from tiphys.kubelet.resize.allocation import bounded, changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One running container that has other resources than it was granted."""

    spec: Container
    running: RuntimeContainer
    wanted: ResourceRequirements
    in_force: ResourceRequirements
    restart: bool  # its resizePolicy wants a new start for what changes


def changes(pod: Pod, runtime: RuntimePod, in_force: Mapping[str, ResourceRequirements]) -> Iterator[Change]:
    """The containers of the granted `pod` to change; `in_force` is by container name, as `bounded`."""
    regular = {container.name for container in pod.spec.containers}
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        state = runtime.container(container.name)
        known = in_force.get(container.name)
        if state is None or not state.running or known is None:
            continue
        wanted = bounded(pod, container)
        names = changed(wanted, known)
        if names:
            policies = {policy.resource_name: policy.restart_policy for policy in container.resize_policy}
            may = container.name in regular or is_sidecar(container)
            restart = may and any(policies.get(name) == "RestartContainer" for name in names)
            yield Change(spec=container, running=state, wanted=wanted, in_force=known, restart=restart)


def widest(a: Limits, b: Limits) -> Limits:
    """Limits under which containers fit both before and after: an absent limit is the widest."""
    return Limits(
        cpu_shares=max(a.cpu_shares or 0, b.cpu_shares or 0) or None,
        cpu_quota=_wider(a.cpu_quota, b.cpu_quota),
        memory=_wider(a.memory, b.memory),
        pids=b.pids,
    )


def _wider(a: int | None, b: int | None) -> int:
    """−1 is no limit."""
    if a is None or b is None or a < 0 or b < 0:
        return -1
    return max(a, b)
