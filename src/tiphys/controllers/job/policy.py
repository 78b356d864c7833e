"""Pod failure policies and success policies. Pure.

https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from tiphys.api.batch.v1 import Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule
from tiphys.api.core.v1 import ContainerStatus, Pod
from tiphys.controllers.job import indexes


def action_for(job: Job, pod: Pod) -> tuple[str, str]:
    """(action, message) for a failed pod: FailJob, FailIndex, Ignore or Count; the message is for FailJob."""
    policy = job.spec.pod_failure_policy
    for number, rule in enumerate(policy.rules if policy is not None else ()):
        why = _matches(pod, rule)
        if why:
            return rule.action, f"{why} matching {rule.action} rule at index {number}"
    return "Count", ""


def _matches(pod: Pod, rule: PodFailurePolicyRule) -> str:
    """What of the pod matches the rule, in words; "" when nothing does."""
    name = f"{pod.metadata.namespace}/{pod.metadata.name}"
    if rule.on_exit_codes is not None:
        for status in _statuses(pod):
            code = _exit_code(status)
            wanted = rule.on_exit_codes.container_name
            if code and wanted in (None, status.name) and _code_matches(code, rule.on_exit_codes):
                return f"Container {status.name} for pod {name} failed with exit code {code}"
        return ""
    for pattern in rule.on_pod_conditions:
        for condition in pod.status.conditions:
            if condition.type == pattern.type and condition.status == (pattern.status or "True"):
                return f"Pod {name} has condition {pattern.type}"
    return ""


def _statuses(pod: Pod) -> Iterator[ContainerStatus]:
    yield from pod.status.container_statuses
    yield from pod.status.init_container_statuses


def _exit_code(status: ContainerStatus) -> int:
    terminated = status.state.terminated if status.state is not None else None
    return terminated.exit_code if terminated is not None else 0


def _code_matches(code: int, requirement: PodFailurePolicyOnExitCodesRequirement) -> bool:
    return (code in requirement.values) == (requirement.operator == "In")


def success_rule(job: Job, done: Collection[int]) -> int | None:
    """The number of the first success rule that the completed indexes fulfil."""
    policy = job.spec.success_policy
    for number, rule in enumerate(policy.rules if policy is not None else ()):
        counted = set(done)
        if rule.succeeded_indexes is not None:
            named = indexes.parse(rule.succeeded_indexes, job.spec.completions or 0)
            counted &= named
            if rule.succeeded_count is None and counted == named:
                return number
        if rule.succeeded_count is not None and len(counted) >= rule.succeeded_count:
            return number
    return None
