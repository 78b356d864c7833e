"""One write shown to policies: does it match, with which parameters, and what are the variables of expressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from tiphys.api.table import Resource, resource_by_kind
from tiphys.apiserver.admission.base import AdmissionParts, name_of
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.apiserver.admission.policies.authorizer import CelAuthorizer, ResourceCheck
from tiphys.apiserver.admission.policies.compiled import Binding, Expression, Policy
from tiphys.apiserver.admission.webhooks.matching import EXEMPT, GROUP, Hook, Matcher
from tiphys.apiserver.authz.interface import Attributes
from tiphys.machinery.cel.compiler import Lazy
from tiphys.machinery.cel.errors import EvalError
from tiphys.machinery.meta import ObjectName, split_api_version
from tiphys.machinery.selectors import LabelSelector

Json = Mapping[str, Any]
NO_PARAMS: Final = "no params found for policy binding with `Deny` parameterNotFoundAction"
# Questions about access are no objects, and a policy about them could lock everybody out.
_REVIEWS: Final = frozenset(
    {"tokenreviews", "subjectaccessreviews", "selfsubjectaccessreviews", "localsubjectaccessreviews",
     "selfsubjectrulesreviews", "selfsubjectreviews"}
)  # fmt: skip


class ConfigurationError(Exception):
    """A policy or binding cannot be used for this write."""


def concerns_policies(attributes: AdmissionAttributes) -> bool:
    """Whether policies may be asked about such a write at all."""
    resource = attributes.resource
    return not (resource.group == GROUP and resource.resource in EXEMPT) and resource.resource not in _REVIEWS


def evaluate(expression: Expression, variables: Mapping[str, Any]) -> Any:
    """The value of an expression. Raises EvalError, also for one that does not compile."""
    if expression.program is None:
        raise EvalError(expression.problem)
    try:
        return expression.program.evaluate(variables)
    except EvalError as error:
        raise EvalError(f"expression '{expression.source}' resulted in error: {error}") from None


@dataclass(frozen=True, slots=True)
class Asker:
    """Shows writes to policies."""

    parts: AdmissionParts
    matcher: Matcher

    def match(self, policy: Policy, binding: Binding, attributes: AdmissionAttributes) -> Resource | None:
        """The version of the resource in which the policy sees the write; None when it is not about it."""
        shown = self._matched(policy.constraints, policy.excluded, attributes)
        if shown is None or binding.matches is None:
            return shown
        return shown if self._matched(binding.matches, binding.excluded, attributes) is not None else None

    def _matched(self, hook: Hook, excluded: Hook | None, attributes: AdmissionAttributes) -> Resource | None:
        shown = self.matcher.match(_named(hook, attributes), attributes)
        if excluded is None or shown is None:
            return shown
        return None if self.matcher.match(_named(excluded, attributes), attributes) is not None else shown

    # --- parameters -------------------------------------------------------------------------------
    def parameters(self, policy: Policy, binding: Binding, attributes: AdmissionAttributes) -> list[Json | None]:
        """The objects a policy is asked with, one after the other. Raises ConfigurationError."""
        kind, reference = policy.spec.get("paramKind"), binding.spec.get("paramRef")
        if kind is None or reference is None:
            return [None]
        group, version = split_api_version(kind["apiVersion"])
        plural, namespaced = self._plural(group, version, kind["kind"])
        namespace = reference.get("namespace") or ""
        if namespaced and not namespace:
            namespace = attributes.namespace
            if not namespace:
                raise ConfigurationError(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                )
        if not namespaced and namespace:
            raise ConfigurationError("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
        found: list[Json] = []
        if name := reference.get("name"):
            one = self.parts.reader.get(group, plural, ObjectName(namespace, name))
            found = [one] if one is not None else []
        else:
            selector = LabelSelector.of_dict(reference.get("selector") or {})
            listed: Sequence[Json] = self.parts.reader.list(group, plural, namespace)
            found = [one for one in listed if selector.matches(one["metadata"].get("labels") or {})]
        if not found and reference.get("parameterNotFoundAction") == "Deny":
            raise ConfigurationError(NO_PARAMS)
        return list(found)

    def _plural(self, group: str, version: str, kind: str) -> tuple[str, bool]:
        known = resource_by_kind(group, version, kind)
        if known is not None:
            return known.plural, known.namespaced
        for one in self.parts.reader.list("apiextensions.k8s.io", "customresourcedefinitions"):
            spec = one["spec"]
            if spec["group"] == group and spec["names"]["kind"] == kind:
                return spec["names"]["plural"], spec.get("scope") == "Namespaced"
        message = f"failed to find resource referenced by paramKind: '{group}/{version}, Kind={kind}'"
        raise ConfigurationError(message.replace("'/", "'") if not group else message)

    # --- variables --------------------------------------------------------------------------------
    def variables(self, policy: Policy, attributes: AdmissionAttributes, shown: Resource) -> dict[str, Any]:
        """What expressions may mention, but for `params`."""
        out = self.base_variables(attributes, shown)
        own: dict[str, Any] = {}
        for name, expression in policy.variables:
            own[name] = Lazy(partial(_value, expression, out))
        out["variables"] = own
        return out

    def base_variables(self, attributes: AdmissionAttributes, shown: Resource) -> dict[str, Any]:
        """The variables that do not depend on a policy."""
        resource = attributes.resource
        other = (shown.group, shown.version) != (resource.group, resource.version)

        def view(obj: Json | None) -> Any:
            if obj is None or not other or attributes.subresource:
                return obj
            return self.parts.versions.convert(dict(obj), shown)

        deleting = attributes.operation is Operation.DELETE
        return {
            "object": None if deleting else Lazy(lambda: view(attributes.object)),
            "oldObject": Lazy(lambda: view(attributes.old_object)),
            "request": request_of(attributes, shown),
            "namespaceObject": Lazy(lambda: self._namespace(attributes, shown)),
            "authorizer": CelAuthorizer(self.parts.authorizer, attributes.user, self._resource_check(attributes)),
            "params": None,
        }

    def _namespace(self, attributes: AdmissionAttributes, shown: Resource) -> Json | None:
        if not shown.namespaced or not attributes.namespace:
            return None
        found = self.parts.reader.get("", "namespaces", ObjectName("", attributes.namespace))
        if found is None:
            raise EvalError(f'namespaces "{attributes.namespace}" not found')
        return found

    def _resource_check(self, attributes: AdmissionAttributes) -> ResourceCheck:
        resource = attributes.resource
        asked = Attributes(
            user=attributes.user,
            verb="",
            resource_request=True,
            api_group=resource.group,
            api_version=resource.version,
            namespace=attributes.namespace,
            resource=resource.resource,
            subresource=attributes.subresource,
            name=attributes.name,
        )
        return ResourceCheck(self.parts.authorizer, asked)


def _value(expression: Expression, variables: Mapping[str, Any]) -> Any:
    if expression.program is None:
        raise EvalError(expression.problem)
    return expression.program.evaluate(variables)


def _named(hook: Hook, attributes: AdmissionAttributes) -> Hook:
    """The hook with the rules whose resourceNames let this object pass."""
    rules = hook.spec.get("rules") or ()
    if not any(rule.get("resourceNames") for rule in rules):
        return hook
    name = name_of(attributes)
    kept = [rule for rule in rules if not rule.get("resourceNames") or name in rule["resourceNames"]]
    return Hook(hook.id, hook.name, {**hook.spec, "rules": kept}, hook.namespace_selector, hook.object_selector)


def request_of(attributes: AdmissionAttributes, shown: Resource) -> dict[str, Any]:
    """`request`: the AdmissionRequest as webhooks get it."""
    kind, resource, user = attributes.kind, attributes.resource, attributes.user
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    gvr = {"group": resource.group, "version": resource.version, "resource": resource.resource}
    shown_kind = gvk if attributes.subresource else {"group": shown.group, "version": shown.version, "kind": shown.kind}
    return {
        "kind": shown_kind,
        "resource": {"group": shown.group, "version": shown.version, "resource": shown.plural},
        "subResource": attributes.subresource,
        "requestKind": gvk,
        "requestResource": gvr,
        "requestSubResource": attributes.subresource,
        "name": name_of(attributes),
        "namespace": attributes.namespace,
        "operation": attributes.operation.value,
        "userInfo": {
            "username": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": {key: list(values) for key, values in user.extra.items()},
        },
        "dryRun": attributes.dry_run,
        "options": attributes.options,
    }
