"""PodSecurity: pods are held to the standard their namespace asks for, and namespaces to standards that exist.

    pod            enforce: refused; audit, warn: noted. Updates count when they change what runs.
    workload       audit and warn only, on the pods it will make
    namespace      its labels must make sense; who tightens enforcement is told which pods would not pass

https://kubernetes.io/docs/concepts/security/pod-security-admission/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tiphys.apiserver.admission.base import WRITE, AdmissionParts, AdmissionPlugin, name_of, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.apiserver.admission.pod_security.baseline import (
    APPARMOR_ANNOTATION,
    SECCOMP_ANNOTATION,
    SECCOMP_POD_ANNOTATION,
)
from tiphys.apiserver.admission.pod_security.checks import evaluate
from tiphys.apiserver.admission.pod_security.configuration import configuration_of
from tiphys.apiserver.admission.pod_security.levels import PREFIX, Level, Policy, Standard, policy_of
from tiphys.apiserver.admission.pod_security.pod import Pod, Violation
from tiphys.machinery.errors import invalid
from tiphys.machinery.field import FieldError
from tiphys.machinery.meta import GroupKind, ObjectName

Object = Mapping[str, Any]
# Where each kind keeps the template of its pods.
TEMPLATES: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("", "podtemplates"): ("template",),
    ("", "replicationcontrollers"): ("spec", "template"),
    ("apps", "replicasets"): ("spec", "template"),
    ("apps", "deployments"): ("spec", "template"),
    ("apps", "statefulsets"): ("spec", "template"),
    ("apps", "daemonsets"): ("spec", "template"),
    ("batch", "jobs"): ("spec", "template"),
    ("batch", "cronjobs"): ("spec", "jobTemplate", "spec", "template"),
}
MAX_PODS: Final = 3000  # looked at when a namespace is tightened
_RUNS: Final = ("initContainers", "containers")


class PodSecurity(AdmissionPlugin):
    """Holds pods to the Pod Security Standards."""

    name = "PodSecurity"
    operations = WRITE
    resources = frozenset({("", "pods"), ("", "pods/ephemeralcontainers"), ("", "namespaces"), *TEMPLATES})

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        self._configuration = configuration_of(parts.configuration.get(self.name))

    async def validate(self, attributes: AdmissionAttributes) -> None:
        resource = (attributes.resource.group, attributes.resource.resource)
        if resource == ("", "namespaces"):
            self._namespace(attributes)
        elif resource == ("", "pods"):
            self._pod(attributes)
        else:
            self._workload(attributes, TEMPLATES[resource])

    def _policy(self, namespace: str) -> Policy:
        found = self.reader.get("", "namespaces", ObjectName("", namespace))
        labels = ((found or {}).get("metadata") or {}).get("labels") or {}
        return policy_of(labels, self._configuration.defaults)

    def _exempt(self, attributes: AdmissionAttributes, spec: Object) -> bool:
        runtime_class = str(spec.get("runtimeClassName") or "")
        why = self._configuration.exempts(attributes.user.name, attributes.namespace, runtime_class)
        if why:
            attributes.annotations[PREFIX + "exempt"] = why
        return bool(why)

    # -- pods --------------------------------------------------------------------------------------
    def _pod(self, attributes: AdmissionAttributes) -> None:
        pod, old = attributes.object or {}, attributes.old_object
        if self._exempt(attributes, pod.get("spec") or {}):
            return
        policy = self._policy(attributes.namespace)
        if policy.ignores_everything:
            attributes.annotations[PREFIX + "enforce-policy"] = str(policy.enforce)
            return
        if attributes.operation is Operation.UPDATE and old is not None and not is_significant(pod, old):
            return
        subject = Pod(pod.get("metadata") or {}, pod.get("spec") or {})
        attributes.annotations[PREFIX + "enforce-policy"] = str(policy.enforce)
        if policy.errors:
            attributes.annotations[PREFIX + "error"] = _message(policy.errors)
        broken = evaluate(policy.enforce, subject)
        self._note(attributes, policy, subject)
        if broken:
            raise refuse(attributes, f'violates PodSecurity "{policy.enforce}": {_listed(broken)}')
        self._warn(attributes, policy, subject)

    def _workload(self, attributes: AdmissionAttributes, path: tuple[str, ...]) -> None:
        policy = self._policy(attributes.namespace)
        if policy.ignores_everything:
            return
        template: Any = attributes.object or {}
        for key in path:
            template = template.get(key) or {}
        if not template.get("spec") or self._exempt(attributes, template["spec"]):
            return
        subject = Pod(template.get("metadata") or {}, template["spec"])
        self._note(attributes, policy, subject)
        self._warn(attributes, policy, subject)

    @staticmethod
    def _note(attributes: AdmissionAttributes, policy: Policy, subject: Pod) -> None:
        broken = evaluate(policy.audit, subject)
        if broken:
            attributes.annotations[PREFIX + "audit-violations"] = _would(policy.audit, broken)

    @staticmethod
    def _warn(attributes: AdmissionAttributes, policy: Policy, subject: Pod) -> None:
        broken = evaluate(policy.warn, subject)
        if broken:
            attributes.warnings.append(_would(policy.warn, broken))

    # -- namespaces --------------------------------------------------------------------------------
    def _namespace(self, attributes: AdmissionAttributes) -> None:
        new, old = attributes.object or {}, attributes.old_object
        policy = policy_of((new.get("metadata") or {}).get("labels") or {}, self._configuration.defaults)
        known = (old["metadata"].get("labels") or {}) if old is not None else {}
        before = policy_of(known, self._configuration.defaults)
        if policy.errors and (old is None or policy.errors != before.errors):
            raise invalid(GroupKind("", "Namespace"), name_of(attributes), list(policy.errors))
        if old is not None and not policy.errors and _tightens(policy.enforce, before.enforce):
            attributes.warnings += self._existing(name_of(attributes), policy.enforce)

    def _existing(self, namespace: str, standard: Standard) -> list[str]:
        """One warning a way in which existing pods break the standard, and one before them."""
        pods = self.reader.list("", "pods", namespace)[:MAX_PODS]
        ways: dict[str, list[str]] = {}
        for pod in pods:
            broken = evaluate(standard, Pod(pod.get("metadata") or {}, pod.get("spec") or {}))
            if broken:
                way = ", ".join(violation.reason for violation in broken)
                ways.setdefault(way, []).append(pod["metadata"]["name"])
        if not ways:
            return []
        head = f'existing pods in namespace "{namespace}" violate the new PodSecurity enforce level "{standard}"'
        return [head, *sorted(f"{_named(names)}: {way}" for way, names in ways.items())]


def _tightens(new: Standard, old: Standard) -> bool:
    """Whether pods that passed may not pass any more."""
    if new == old or new.level is Level.PRIVILEGED:
        return False
    return new.level > old.level or new.minor != old.minor


def _named(names: list[str]) -> str:
    more = len(names) - 1
    if not more:
        return names[0]
    return f"{names[0]} (and {more} other pod{'s' if more > 1 else ''})"


def _listed(broken: list[Violation]) -> str:
    return ", ".join(map(str, broken))


def _would(standard: Standard, broken: list[Violation]) -> str:
    return f'would violate PodSecurity "{standard}": {_listed(broken)}'


def _message(errors: Iterable[FieldError]) -> str:
    return f"Failed to parse policy: {', '.join(str(error) for error in errors)}"


def is_significant(pod: Object, old: Object) -> bool:
    """Whether an update of a pod changes what the standards look at and an update can change.

    Images count: what was trusted is replaced by something else.
    """
    if _profiles(pod) != _profiles(old):
        return True
    new_spec, old_spec = pod.get("spec") or {}, old.get("spec") or {}
    if any(_images(new_spec, key) != _images(old_spec, key) for key in _RUNS):
        return True
    return bool((new_spec.get("ephemeralContainers") or []) != (old_spec.get("ephemeralContainers") or []))


def _profiles(pod: Object) -> dict[str, str]:
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    return {
        key: value
        for key, value in annotations.items()
        if key == SECCOMP_POD_ANNOTATION or key.startswith((SECCOMP_ANNOTATION, APPARMOR_ANNOTATION))
    }


def _images(spec: Object, key: str) -> list[tuple[str, str]]:
    return [(container.get("name", ""), container.get("image", "")) for container in spec.get(key) or ()]
