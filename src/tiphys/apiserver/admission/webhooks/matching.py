"""Which webhooks are asked about a write: rules, then the selectors of namespace and object.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#matching-requests-rules
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tiphys.api.table import Resource
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.admission.webhooks.interface import Versions
from tiphys.apiserver.registry.strategy import Reader
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.selectors import LabelSelector

GROUP: Final = "admissionregistration.k8s.io"
# A webhook must not be able to keep anybody from repairing webhooks.
EXEMPT: Final = frozenset(
    {
        "validatingwebhookconfigurations",
        "mutatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Hook:
    """One webhook of one configuration. `id` tells it from all others."""

    id: tuple[str, int]
    name: str
    spec: Mapping[str, Any]
    namespace_selector: LabelSelector
    object_selector: LabelSelector

    @property
    def ignores_failures(self) -> bool:
        return bool(self.spec.get("failurePolicy") == "Ignore")

    @property
    def timeout(self) -> int:
        """Seconds."""
        return int(self.spec.get("timeoutSeconds") or 10)

    @property
    def has_side_effects(self) -> bool:
        """Whether it may do something outside even when the write is only tried."""
        return self.spec.get("sideEffects") not in ("None", "NoneOnDryRun")


def hooks_of(configuration: Mapping[str, Any]) -> list[Hook]:
    """The webhooks of a configuration, in their order."""
    name = configuration["metadata"]["name"]
    return [
        Hook(
            (name, index),
            spec.get("name", ""),
            spec,
            LabelSelector.of_dict(spec.get("namespaceSelector") or {}),
            LabelSelector.of_dict(spec.get("objectSelector") or {}),
        )
        for index, spec in enumerate(configuration.get("webhooks") or ())
    ]


class Hooks:
    """The webhooks there are, of one kind of configuration, each configuration read once."""

    def __init__(self, reader: Reader, plural: str) -> None:
        self._reader = reader
        self._plural = plural
        self._known: dict[str, tuple[Mapping[str, Any], list[Hook]]] = {}

    def all(self) -> list[Hook]:
        """Every webhook: configurations by name, webhooks in their order."""
        configurations = self._reader.list(GROUP, self._plural)
        if not configurations and not self._known:
            return []
        current: dict[str, tuple[Mapping[str, Any], list[Hook]]] = {}
        for configuration in configurations:
            name = configuration["metadata"]["name"]
            known = self._known.get(name)
            if known is None or known[0] is not configuration:
                known = configuration, hooks_of(configuration)
            current[name] = known
        self._known = current
        return [hook for _, hooks in current.values() for hook in hooks]


class Matcher:
    """Decides whether a webhook is asked, and in which version."""

    def __init__(self, reader: Reader, versions: Versions) -> None:
        self._reader = reader
        self._versions = versions

    def match(self, hook: Hook, attributes: AdmissionAttributes) -> Resource | None:
        """The version of the resource to show to the webhook; None when it is not asked."""
        if not self._namespace_matches(hook, attributes) or not _object_matches(hook, attributes):
            return None
        resource = attributes.resource
        found = self._versions.served(resource.group, resource.resource)
        candidates = sorted(found, key=lambda one: (one.group, one.version) != (resource.group, resource.version))
        if hook.spec.get("matchPolicy") == "Exact":
            candidates = candidates[:1]
        for rule in hook.spec.get("rules") or ():
            for candidate in candidates:
                if rule_matches(rule, attributes, candidate):
                    return candidate
        return None

    def _namespace_matches(self, hook: Hook, attributes: AdmissionAttributes) -> bool:
        if hook.namespace_selector.empty:
            return True
        if (attributes.resource.group, attributes.resource.resource) == ("", "namespaces"):
            obj = attributes.object if attributes.object is not None else attributes.old_object
            if attributes.subresource or obj is None:
                obj = self._reader.get("", "namespaces", ObjectName("", attributes.name))
            return hook.namespace_selector.matches(_labels(obj))
        if not attributes.namespace:
            return True
        namespace = self._reader.get("", "namespaces", ObjectName("", attributes.namespace))
        return hook.namespace_selector.matches(_labels(namespace))


def _object_matches(hook: Hook, attributes: AdmissionAttributes) -> bool:
    if hook.object_selector.empty:
        return True
    return any(
        obj is not None and hook.object_selector.matches(_labels(obj))
        for obj in (attributes.object, attributes.old_object)
    )


def _labels(obj: Mapping[str, Any] | None) -> Mapping[str, str]:
    return ((obj or {}).get("metadata") or {}).get("labels") or {}


def rule_matches(rule: Mapping[str, Any], attributes: AdmissionAttributes, resource: Resource) -> bool:
    """Whether a rule is about a write, were it made in the version of `resource`."""
    return (
        _has(rule.get("operations"), attributes.operation.value)
        and _has(rule.get("apiGroups"), resource.group)
        and _has(rule.get("apiVersions"), resource.version)
        and any(_covers(one, resource.plural, attributes.subresource) for one in rule.get("resources") or ())
        and _in_scope(rule.get("scope"), resource, attributes)
    )


def _has(values: Sequence[str] | None, value: str) -> bool:
    return bool(values) and ("*" in (values or ()) or value in (values or ()))


def _covers(wanted: str, resource: str, subresource: str) -> bool:
    """`pods` is the resource alone, `pods/*` with all subresources, `*/status` one subresource of all."""
    plural, _, sub = wanted.partition("/")
    return plural in ("*", resource) and sub in ("*", subresource)


def _in_scope(scope: str | None, resource: Resource, attributes: AdmissionAttributes) -> bool:
    if scope in (None, "", "*"):
        return True
    # A namespace is a cluster resource, although its requests name a namespace.
    namespaced = bool(attributes.namespace) and resource.namespaced
    return namespaced == (scope == "Namespaced")
