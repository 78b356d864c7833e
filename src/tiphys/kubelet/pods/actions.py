"""What to do for a pod now: a pure function of its spec and of what the runtime says.

```
 sandbox gone or changed ──► kill all, new sandbox, first init container (or the regular ones)
 sandbox good ──► init containers in order ──► regular containers
                   │ wait for the running one    │ start missing ones, restart ended ones by policy,
                   │ restart failed ones         │ kill those that changed or failed a probe
                   └ keep sidecars running       └ nothing left to run: kill the pod
```
Level-driven: whatever was done or lost before, the same state gives the same answer. Back-off is
not decided here; the caller holds back a start whose time has not come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from tiphys.api.core.v1 import Container, EphemeralContainer, Pod
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod, State
from tiphys.kubelet.pod import AnyContainer, container_hash, is_sidecar, restart_policy
from tiphys.kubelet.pods.restart import restarts_after_exit, should_run

KillReason = Literal["", "FailedLivenessProbe", "FailedStartupProbe", "Changed", "Resize", "Unknown"]


@dataclass(frozen=True, slots=True)
class Kill:
    """One container to stop, and the words of its Killing event."""

    container: RuntimeContainer
    message: str
    reason: KillReason = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodActions:
    """The next step. `attempt` and `sandbox_id` are of the sandbox to make or to use."""

    kill_pod: bool = False
    create_sandbox: bool = False
    attempt: int = 0
    sandbox_id: str = ""
    kill: tuple[Kill, ...] = ()
    start_init: tuple[Container, ...] = ()
    start: tuple[Container, ...] = ()
    start_ephemeral: tuple[EphemeralContainer, ...] = ()

    @property
    def starts(self) -> tuple[AnyContainer, ...]:
        """What is to be started, in the order in which it must be: ephemeral, init, regular."""
        return (*self.start_ephemeral, *self.start_init, *self.start)

    @property
    def idle(self) -> bool:
        return not (self.kill_pod or self.create_sandbox or self.kill or self.starts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeView:
    """What the probes, and a resize, say of containers, by id."""

    liveness_failed: frozenset[str] = frozenset()
    startup_failed: frozenset[str] = frozenset()
    # Containers whose new resources need a new start.
    resized: frozenset[str] = frozenset()
    # True once a container's startup probe has succeeded, or at once where it has none.
    started: Callable[[RuntimeContainer], bool] = field(default=lambda container: True)


def compute_pod_actions(pod: Pod, runtime: RuntimePod, probes: ProbeView) -> PodActions:
    """The actions that bring `runtime` towards the spec of `pod`."""
    changed, attempt, sandbox_id = sandbox_change(pod, runtime)
    if changed:
        return _with_new_sandbox(pod, runtime, attempt)
    base = PodActions(attempt=attempt, sandbox_id=sandbox_id, start_ephemeral=_ephemeral(pod, runtime))
    init = _init_actions(pod, runtime, probes)
    base = replace(base, kill=init.kill, start_init=init.start)
    if init.failed:
        # The pod cannot come up any more: take down what runs beside the failed container.
        return replace(base, kill_pod=True)
    if not init.done:
        return base
    return _regular_actions(pod, runtime, probes, base)


def sandbox_change(pod: Pod, runtime: RuntimePod) -> tuple[bool, int, str]:
    """Whether the pod needs another sandbox: (changed, attempt number, id of the current one)."""
    sandbox = runtime.sandbox
    if sandbox is None:
        return True, 0, ""
    host_network = bool(pod.spec.host_network)
    usable = sandbox.ready and sandbox.host_network == host_network and (host_network or bool(sandbox.ips))
    return (not usable, sandbox.attempt if usable else sandbox.attempt + 1, sandbox.id)


def _with_new_sandbox(pod: Pod, runtime: RuntimePod, attempt: int) -> PodActions:
    actions = PodActions(kill_pod=True, create_sandbox=True, attempt=attempt)
    nothing = PodActions(kill_pod=True, attempt=attempt)
    if restart_policy(pod) == "Never" and attempt > 0 and _has_run(pod, runtime) and not _has_own_policies(pod):
        # Its processes went with the old sandbox; a pod that never restarts is over.
        return nothing
    wanted = tuple(c for c in pod.spec.containers if _runs_in_new_sandbox(pod, c, runtime.container(c.name)))
    if not wanted:
        return nothing
    if pod.spec.init_containers:
        # A new sandbox starts the pod from the beginning.
        return replace(actions, start_init=(pod.spec.init_containers[0],))
    return replace(actions, start=wanted)


def _has_run(pod: Pod, runtime: RuntimePod) -> bool:
    """Whether every container had its run, or one still has: what that comes to is known when it has ended.

    A container that was made, and not started before the sandbox went, is still to have it.
    """
    states = (runtime.container(container.name) for container in pod.spec.containers)
    return bool(runtime.running) or all(state is not None and state.state is not State.CREATED for state in states)


def _runs_in_new_sandbox(pod: Pod, container: Container, runtime: RuntimeContainer | None) -> bool:
    return runtime is None or not runtime.exited or restarts_after_exit(pod, container, runtime.exit_code)


def _has_own_policies(pod: Pod) -> bool:
    return any(container.restart_policy or container.restart_policy_rules for container in pod.spec.containers)


def _ephemeral(pod: Pod, runtime: RuntimePod) -> tuple[EphemeralContainer, ...]:
    """Ephemeral containers run once."""
    return tuple(c for c in pod.spec.ephemeral_containers if runtime.container(c.name) is None)


@dataclass(slots=True)
class _Init:
    start: tuple[Container, ...] = ()
    kill: tuple[Kill, ...] = ()
    done: bool = False
    failed: bool = False


def initialized(pod: Pod, runtime: RuntimePod) -> bool:
    """Whether the pod has been past its init containers in the current sandbox.

    A regular container can only exist after them, so that a finished init container may be
    cleaned away without being run again.
    """
    sandbox = runtime.ready_sandbox
    if sandbox is None:
        return False
    since = sandbox.created_at
    named = (runtime.container(container.name) for container in pod.spec.containers)
    return any(container is not None and container.created_at >= since for container in named)


def _init_actions(pod: Pod, runtime: RuntimePod, probes: ProbeView) -> _Init:
    plan = _Init()
    passed = initialized(pod, runtime)
    sandbox = runtime.ready_sandbox
    for container in pod.spec.init_containers:
        state = runtime.container(container.name)
        if state is not None and sandbox is not None and state.created_at < sandbox.created_at:
            state = None  # of an earlier sandbox: everything begins again
        if is_sidecar(container):
            if not _step_sidecar(plan, container, state, probes) and not passed:
                return plan
        elif not passed and not _step_init(plan, pod, container, state):
            return plan
    plan.done = True
    return plan


def _step_init(plan: _Init, pod: Pod, container: Container, state: RuntimeContainer | None) -> bool:
    """Plan for one init container that must end; True when the next one may be looked at."""
    if state is None or state.state is State.CREATED:
        plan.start += (container,)
        return False
    if state.state is State.UNKNOWN:
        plan.kill += (Kill(state, _unknown_message("Init container", container.name), "Unknown"),)
        plan.start += (container,)
        return False
    if state.running:
        return False
    if state.exit_code == 0:
        return True
    # "Always" cannot mean an init container that succeeded runs again: for these it is OnFailure.
    if restarts_after_exit(pod, container, state.exit_code):
        plan.start += (container,)
    else:
        plan.failed = True
    return False


def _step_sidecar(plan: _Init, container: Container, state: RuntimeContainer | None, probes: ProbeView) -> bool:
    """Plan for one sidecar, which always runs; True when it has started and the next may follow."""
    if state is None or not state.running:
        if state is not None and state.state is State.UNKNOWN:
            plan.kill += (Kill(state, _unknown_message("Init container", container.name), "Unknown"),)
        plan.start += (container,)
        return False
    kill = _kill_running(container, state, probes, "Init container")
    if kill is not None:
        plan.kill += (kill,)
        plan.start += (container,)
    return probes.started(state)


def _regular_actions(pod: Pod, runtime: RuntimePod, probes: ProbeView, base: PodActions) -> PodActions:
    kills: list[Kill] = list(base.kill)
    starts: list[Container] = []
    kept = 0
    for container in pod.spec.containers:
        state = runtime.container(container.name)
        if state is None or not state.running:
            if should_run(pod, container, state):
                if state is not None and state.state is State.UNKNOWN:
                    kills.append(Kill(state, _unknown_message("Container", container.name), "Unknown"))
                starts.append(container)
            continue
        kill = _kill_running(container, state, probes, "Container")
        if kill is None:
            kept += 1
            continue
        kills.append(kill)
        if kill.reason in ("Changed", "Resize") or restarts_after_exit(pod, container, 137):
            starts.append(container)
    return replace(base, kill=tuple(kills), start=tuple(starts), kill_pod=not kept and not starts)


def _kill_running(container: Container, state: RuntimeContainer, probes: ProbeView, what: str) -> Kill | None:
    """Why a running container must be stopped and replaced, if it must."""
    if state.hash and state.hash != container_hash(container):
        return Kill(state, f"{what} {container.name} definition changed, will be restarted", "Changed")
    if state.id in probes.resized:
        return Kill(state, f"{what} {container.name} resize requires restart", "Resize")
    if state.id in probes.liveness_failed:
        return Kill(state, f"{what} {container.name} failed liveness probe, will be restarted", "FailedLivenessProbe")
    if state.id in probes.startup_failed:
        return Kill(state, f"{what} {container.name} failed startup probe, will be restarted", "FailedStartupProbe")
    return None


def _unknown_message(what: str, name: str) -> str:
    return f'{what} is in "ContainerStateUnknown" state, try killing it before restart: {name}'
