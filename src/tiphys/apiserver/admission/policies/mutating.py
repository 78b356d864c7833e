"""MutatingAdmissionPolicy: expressions that change what is written, by configurations to apply or by JSON patches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from tiphys.api.schemas import has_schema, schema_of
from tiphys.api.table import Resource
from tiphys.apiserver.admission.base import AdmissionParts, AdmissionPlugin, name_of
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.apiserver.admission.policies.asked import Asker, ConfigurationError, concerns_policies, evaluate
from tiphys.apiserver.admission.policies.compiled import Binding, Expression, Policies, Policy
from tiphys.apiserver.admission.webhooks.matching import Matcher
from tiphys.apiserver.registry.on_demand import with_conversions
from tiphys.machinery.cel.errors import EvalError
from tiphys.machinery.errors import StatusError, status_of
from tiphys.machinery.meta import join_api_version
from tiphys.machinery.misfit import DecodeError
from tiphys.machinery.patch.errors import BadPatchError, PatchError
from tiphys.machinery.patch.json import apply_json_patch
from tiphys.machinery.patch.typed import merge

Object = dict[str, Any]


class MutationError(Exception):
    """A mutation that does not fit the object."""


class MutatingAdmissionPolicy(AdmissionPlugin):
    """Lets policies change what is written, one after the other."""

    name = "MutatingAdmissionPolicy"

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        self._policies = Policies(parts.reader, "mutatingadmissionpolicies", "mutatingadmissionpolicybindings")
        self._asker = Asker(parts, Matcher(parts.reader, parts.versions))
        self._versions = parts.versions

    def handles(self, attributes: AdmissionAttributes) -> bool:
        return attributes.operation is not Operation.DELETE and concerns_policies(attributes)

    async def admit(self, attributes: AdmissionAttributes) -> None:
        if attributes.object is None:
            return
        for policy, bindings in self._policies.all():
            if attributes.is_reinvocation and policy.spec.get("reinvocationPolicy") != "IfNeeded":
                continue
            for binding in bindings:
                await self._ask(policy, binding, attributes)

    async def _ask(self, policy: Policy, binding: Binding, attributes: AdmissionAttributes) -> None:
        shown = self._asker.match(policy, binding, attributes)
        if shown is None:
            return
        try:
            for params in self._asker.parameters(policy, binding, attributes):
                await self._mutate(policy, attributes, shown, params)
        except ConfigurationError as error:
            if not policy.ignores_failures:
                raise refusal(attributes, policy, binding, f"failed to configure binding: {error}") from None
        except (EvalError, MutationError) as error:
            if not policy.ignores_failures:
                raise refusal(attributes, policy, binding, str(error)) from None

    async def _mutate(self, policy: Policy, attributes: AdmissionAttributes, shown: Resource, params: Any) -> None:
        def variables() -> dict[str, Any]:
            return {**self._asker.variables(policy, attributes, shown), "params": params}

        def hold() -> bool:
            known = variables()
            return all(evaluate(one, known) is True for one in policy.conditions)

        if not await with_conversions(hold):
            return
        obj = attributes.object
        assert obj is not None
        for kind, expression in policy.mutations:
            # Each mutation sees what the one before did.
            restored = await with_conversions(
                partial(self._mutated, kind, expression, obj, attributes, shown, variables)
            )
            if restored != obj:
                obj.clear()
                obj.update(restored)

    def _mutated(
        self,
        kind: str,
        expression: Expression,
        obj: Object,
        attributes: AdmissionAttributes,
        shown: Resource,
        variables: Callable[[], dict[str, Any]],
    ) -> Object:
        """The object after one mutation, in the version plug-ins see."""
        changed = self._changed(kind, expression, self._view(obj, attributes, shown), shown, variables())
        if attributes.subresource:
            return changed
        resource = attributes.resource
        return self._versions.restore(changed, shown, join_api_version(resource.group, resource.version))

    def _view(self, obj: Object, attributes: AdmissionAttributes, shown: Resource) -> Object:
        if attributes.subresource:
            return copy.deepcopy(obj)
        return self._versions.convert(obj, shown)

    def _changed(
        self, kind: str, expression: Expression, obj: Object, shown: Resource, variables: dict[str, Any]
    ) -> Object:
        value = evaluate(expression, variables)
        if kind == "JSONPatch":
            return json_patched(obj, value)
        if not isinstance(value, dict):
            raise MutationError("must evaluate to an object")
        return applied(obj, value, shown)


def json_patched(obj: Object, operations: list[Object]) -> Object:
    """The object after JSON patch operations. Raises MutationError."""
    for operation in operations:
        if operation.get("op") == "test" and not _exists(obj, str(operation.get("path", ""))):
            path = operation.get("path")
            raise MutationError(f"JSON Patch: test operation does not apply: is missing path: {path}: missing value")
    try:
        patched = apply_json_patch(obj, operations)
    except (BadPatchError, PatchError) as error:
        raise MutationError(f"JSON Patch: {error}") from None
    if not isinstance(patched, dict):
        raise MutationError("JSON Patch: the result is no object")
    return patched


def _exists(obj: Any, pointer: str) -> bool:
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(obj, dict) and key in obj:
            obj = obj[key]
        elif isinstance(obj, list) and key.isdigit() and int(key) < len(obj):
            obj = obj[int(key)]
        else:
            return False
    return True


def applied(obj: Object, configuration: Object, shown: Resource) -> Object:
    """The object with an apply configuration merged into it, lists by their keys. Raises MutationError."""
    configuration = {"apiVersion": obj.get("apiVersion"), "kind": obj.get("kind"), **configuration}
    if not has_schema(shown.group, shown.version, shown.kind):
        merged: Object = _merged(obj, configuration)
        return merged
    try:
        return merge(obj, configuration, schema_of(shown.group, shown.version, shown.kind))
    except (DecodeError, ValueError) as error:
        raise MutationError(f"error applying patch: {error}") from None


def _merged(obj: Any, other: Any) -> Any:
    if not isinstance(obj, dict) or not isinstance(other, dict):
        return other
    return {**obj, **{key: _merged(obj.get(key), value) for key, value in other.items()}}


def refusal(attributes: AdmissionAttributes, policy: Policy, binding: Binding, problem: str) -> StatusError:
    """The refusal of a write whose mutation failed."""
    text = f"policy '{policy.name}' with binding '{binding.name}' denied request: {problem}"
    name = name_of(attributes)
    details: Object = {"name": name} if name else {}
    if attributes.resource.group:
        details["group"] = attributes.resource.group
    details |= {"kind": attributes.resource.resource, "causes": [{"message": text}]}
    return StatusError(status_of(403, "Invalid", text, details))
