"""Writes into the status of ValidatingAdmissionPolicies what type checking says of their expressions.

https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/#type-checking
"""

from __future__ import annotations

from typing import Any, Final

from tiphys.api.admissionregistration.v1 import ValidatingAdmissionPolicy
from tiphys.client import DONE, Controller, PatchType, Result, enqueue
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.meta import ObjectName

MANAGER: Final = "validatingadmissionpolicy-status"


class PolicyStatusController(Controller[ObjectName]):
    """The controller `validatingadmissionpolicy-status-controller`; without a type checker it has nothing to say."""

    name = "validatingadmissionpolicy-status"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._checker = context.options.policy_type_checker
        self._policies = context.informers.of(ValidatingAdmissionPolicy)
        super().__init__(context.clock, (self._policies,))
        if self._checker is not None:
            enqueue(self.queue, self._policies)

    async def sync(self, key: ObjectName) -> Result:
        """Check one policy, once a generation."""
        policy = self._policies.lister.get(key)
        if policy is None or self._checker is None:
            return DONE
        if policy.status.observed_generation == policy.metadata.generation:
            return DONE
        warnings = [{"fieldRef": place, "warning": text} for place, text in self._checker.warnings(policy)]
        applied: dict[str, Any] = {
            "apiVersion": ValidatingAdmissionPolicy.API_VERSION,
            "kind": ValidatingAdmissionPolicy.KIND,
            "metadata": {"name": key.name},
            "status": {
                "observedGeneration": policy.metadata.generation,
                "typeChecking": {"expressionWarnings": warnings} if warnings else {},
            },
        }
        await self._client.patch(
            ValidatingAdmissionPolicy,
            key,
            applied,
            patch_type=PatchType.APPLY,
            subresource="status",
            field_manager=MANAGER,
            force=True,
        )
        return DONE
