"""Whether a container that has ended runs again.

https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy, with the
container's own policy and rules (KEP-5307) over the pod's. A rule may start the whole pod anew (KEP-5532).
"""

from __future__ import annotations

from typing import Final

from tiphys.api.core.v1 import Container, Pod
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod, State
from tiphys.kubelet.pod import AnyContainer, container_restart_policy

RESTART: Final = "Restart"
RESTART_ALL: Final = "RestartAllContainers"


def should_run(pod: Pod, container: AnyContainer, runtime: RuntimeContainer | None) -> bool:
    """Whether a regular container that is not running should be started."""
    if runtime is None:
        return True
    if runtime.running:
        return False
    if runtime.state in (State.CREATED, State.UNKNOWN):
        # Made but never seen to start, or lost from sight: it has not had its run.
        return True
    return restarts_after_exit(pod, container, runtime.exit_code)


def restarts_after_exit(pod: Pod, container: AnyContainer, exit_code: int) -> bool:
    """Whether the policy in force starts a container again that ended with `exit_code`."""
    if isinstance(container, Container) and _action(container, exit_code) in (RESTART, RESTART_ALL):
        return True
    match container_restart_policy(pod, container):
        case "Never":
            return False
        case "OnFailure":
            return exit_code != 0
        case _:
            return True


def restart_trigger(pod: Pod, runtime: RuntimePod) -> RuntimeContainer | None:
    """The container whose end starts all of the pod's containers anew, if there is one."""
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        if not container.restart_policy_rules:
            continue
        state = runtime.container(container.name)
        if state is not None and state.exited and _action(container, state.exit_code) == RESTART_ALL:
            return state
    return None


def _action(container: Container, exit_code: int) -> str:
    """What the first rule asks for that knows this exit code; "" without one."""
    for rule in container.restart_policy_rules:
        if rule.exit_codes is None:
            continue
        listed = exit_code in rule.exit_codes.values
        if listed == (rule.exit_codes.operator == "In"):
            return rule.action
    return ""
