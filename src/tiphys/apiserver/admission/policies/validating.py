"""ValidatingAdmissionPolicy: expressions that judge a write; the binding says what becomes of a failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import orjson

from tiphys.apiserver.admission.base import AdmissionParts, AdmissionPlugin, name_of
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.admission.policies.asked import Asker, ConfigurationError, concerns_policies, evaluate
from tiphys.apiserver.admission.policies.compiled import Binding, Policies, Policy, Validation
from tiphys.apiserver.admission.webhooks.matching import Matcher
from tiphys.apiserver.registry.on_demand import with_conversions
from tiphys.machinery.cel.errors import EvalError
from tiphys.machinery.errors import StatusError, status_of
from tiphys.machinery.meta import GroupResource

FAILURES: Final = "validation.policy.admission.k8s.io/validation_failure"
CODES: Final = {"Forbidden": 403, "Unauthorized": 401, "RequestEntityTooLarge": 413, "Invalid": 422}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a policy with a binding says no."""

    policy: str
    binding: str
    message: str
    reason: str = "Invalid"


class ValidatingAdmissionPolicy(AdmissionPlugin):
    """Asks every policy that is bound; the first denial ends the write."""

    name = "ValidatingAdmissionPolicy"

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        self._policies = Policies(parts.reader, "validatingadmissionpolicies", "validatingadmissionpolicybindings")
        self._asker = Asker(parts, Matcher(parts.reader, parts.versions))

    def handles(self, attributes: AdmissionAttributes) -> bool:
        return concerns_policies(attributes)

    async def validate(self, attributes: AdmissionAttributes) -> None:
        denied: list[Failure] = []
        audited: list[dict[str, Any]] = []
        for policy, bindings in self._policies.all():
            for binding in bindings:
                failures = await with_conversions(partial(self._failures, policy, binding, attributes))
                actions = binding.spec.get("validationActions") or ()
                for failure in failures:
                    if "Deny" in actions:
                        denied.append(failure)
                    if "Warn" in actions:
                        attributes.warnings.append(
                            f"Validation failed for ValidatingAdmissionPolicy '{policy.name}' with binding "
                            f"'{binding.name}': {failure.message}"
                        )
                    if "Audit" in actions:
                        audited.append({"message": failure.message, "policy": policy.name, "binding": binding.name})
        if audited:
            attributes.annotations[FAILURES] = orjson.dumps(audited).decode()
        if denied:
            raise denial(attributes, denied[0])

    def _failures(self, policy: Policy, binding: Binding, attributes: AdmissionAttributes) -> list[Failure]:
        """What the policy says with one binding; a policy that cannot be asked says what its failurePolicy says."""
        shown = self._asker.match(policy, binding, attributes)
        if shown is None:
            return []
        try:
            params = self._asker.parameters(policy, binding, attributes)
        except ConfigurationError as error:
            if policy.ignores_failures:
                return []
            return [Failure(policy.name, binding.name, f"failed to configure binding: {error}")]
        found: list[Failure] = []
        for one in params:
            variables = self._asker.variables(policy, attributes, shown)
            variables["params"] = one
            found += self._judge(policy, binding, attributes, variables)
        return found

    def _judge(
        self, policy: Policy, binding: Binding, attributes: AdmissionAttributes, variables: Mapping[str, Any]
    ) -> list[Failure]:
        try:
            if not all(evaluate(one, variables) is True for one in policy.conditions):
                return []
        except EvalError as error:
            return [] if policy.ignores_failures else [Failure(policy.name, binding.name, str(error))]
        found: list[Failure] = []
        for validation in policy.validations:
            try:
                passed = evaluate(validation.test, variables) is True
            except EvalError as error:
                if not policy.ignores_failures:
                    found.append(Failure(policy.name, binding.name, str(error), _reason(validation)))
                continue
            if not passed:
                message = _message(validation, variables)
                found.append(Failure(policy.name, binding.name, message, _reason(validation)))
        self._annotate(policy, attributes, variables)
        return found

    @staticmethod
    def _annotate(policy: Policy, attributes: AdmissionAttributes, variables: Mapping[str, Any]) -> None:
        for key, expression in policy.audits:
            try:
                value = evaluate(expression, variables)
            except EvalError:
                continue
            if isinstance(value, str) and value.strip():
                attributes.annotations[f"{policy.name}/{key}"] = value


def _reason(validation: Validation) -> str:
    return str(validation.spec.get("reason") or "Invalid")


def _message(validation: Validation, variables: Mapping[str, Any]) -> str:
    if validation.message is not None:
        try:
            text = evaluate(validation.message, variables)
        except EvalError:
            text = None
        if isinstance(text, str) and text.strip() and "\n" not in text.strip():
            return text.strip()
    message = str(validation.spec.get("message") or "").strip()
    return message or f"failed expression: {validation.test.source.strip()}"


def denial(attributes: AdmissionAttributes, failure: Failure) -> StatusError:
    """The refusal of a write."""
    text = (
        f"ValidatingAdmissionPolicy '{failure.policy}' with binding '{failure.binding}' "
        f"denied request: {failure.message}"
    )
    resource = GroupResource(attributes.resource.group, attributes.resource.resource)
    name = name_of(attributes)
    shown = f'{resource} "{name}"' if name else str(resource)
    details: dict[str, Any] = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    details |= {"kind": resource.resource, "causes": [{"message": text}]}
    code = CODES.get(failure.reason, 422)
    return StatusError(status_of(code, failure.reason, f"{shown} is forbidden: {text}", details))
