"""Whether a container that has ended runs again.

https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy, with the
container's own policy and rules (KEP-5307) over the pod's.
"""

from __future__ import annotations

from tiphys.api.core.v1 import Container, Pod
from tiphys.kubelet.cri.state import RuntimeContainer, State
from tiphys.kubelet.pod import AnyContainer, container_restart_policy


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
    if isinstance(container, Container) and _rule_restarts(container, exit_code):
        return True
    match container_restart_policy(pod, container):
        case "Never":
            return False
        case "OnFailure":
            return exit_code != 0
        case _:
            return True


def _rule_restarts(container: Container, exit_code: int) -> bool:
    for rule in container.restart_policy_rules:
        if rule.action != "Restart" or rule.exit_codes is None:
            continue
        listed = exit_code in rule.exit_codes.values
        if listed == (rule.exit_codes.operator == "In"):
            return True
    return False
