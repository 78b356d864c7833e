"""Nobody gives away more than they have: what stands before every write of a role or a binding.

    role      the writer has every rule of it, or may `escalate` the role
    binding   the writer has every rule of the role that is bound, or may `bind` it

Members of system:masters may everything. https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.admission.base import WRITE, AdmissionParts, AdmissionPlugin, Object, name_of, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.apiserver.authn.interface import GROUP_MASTERS
from tiphys.apiserver.authz.interface import Attributes
from tiphys.apiserver.authz.rules import ALL, PolicyRule, compacted, described, quoted, uncovered
from tiphys.machinery.errors import not_found
from tiphys.machinery.meta import GroupResource

RBAC: Final = "rbac.authorization.k8s.io"
EVERYTHING: Final = (PolicyRule((ALL,), (ALL,), (ALL,)), PolicyRule((ALL,), non_resource_urls=(ALL,)))
AGGREGATION: Final = "must have cluster-admin privileges to use the aggregationRule"
# Metadata that may always be changed: the garbage collector has to let go of what it deletes.
_HOUSEKEEPING: Final = frozenset({"ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation"})


class RoleEscalation(AdmissionPlugin):
    """Looks at roles and bindings once everything else has changed them."""

    name = "RoleEscalation"
    operations = WRITE
    resources = frozenset(
        {(RBAC, "roles"), (RBAC, "clusterroles"), (RBAC, "rolebindings"), (RBAC, "clusterrolebindings")}
    )

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        self._rules = parts.rules

    async def admit(self, attributes: AdmissionAttributes) -> None:
        new, old = attributes.object, attributes.old_object
        if new is None or GROUP_MASTERS in attributes.user.groups:
            return
        binding = attributes.resource.resource.endswith("bindings")
        if self._may_bind(attributes, new) if binding else self._may_escalate(attributes):
            return
        if attributes.operation is Operation.UPDATE and old is not None and _same_but_for_housekeeping(new, old):
            return
        if binding:
            self._check(attributes, self._bound_rules(attributes, new))
            return
        self._check(attributes, [PolicyRule.from_json(rule) for rule in new.get("rules") or ()])
        aggregates = _aggregates(new) or _aggregates(old)
        if aggregates and uncovered(EVERYTHING, self._rules.rules_for(attributes.user, attributes.namespace)):
            raise refuse(attributes, AGGREGATION)

    def _may_escalate(self, attributes: AdmissionAttributes) -> bool:
        # A role that is being created has no name that could have been named in a rule.
        name = "" if attributes.operation is Operation.CREATE else name_of(attributes)
        resource = attributes.resource.resource
        return self._may(attributes, "escalate", resource, name)

    def _may_bind(self, attributes: AdmissionAttributes, binding: Object) -> bool:
        kind, name = _role_of(binding)
        return self._may(attributes, "bind", f"{kind.lower()}s", name)

    def _may(self, attributes: AdmissionAttributes, verb: str, resource: str, name: str) -> bool:
        question = Attributes(
            user=attributes.user,
            verb=verb,
            resource_request=True,
            api_group=RBAC,
            api_version=ALL,
            resource=resource,
            name=name,
            namespace=attributes.namespace,
        )
        return self.authorizer.authorize(question).allowed

    def _bound_rules(self, attributes: AdmissionAttributes, binding: Object) -> Sequence[PolicyRule]:
        kind, name = _role_of(binding)
        rules = self._rules.rules_of_role(kind, attributes.namespace, name)
        if rules is None:
            # The kind that is written is named, not the role's.
            raise not_found(GroupResource(RBAC, attributes.resource.resource), name)
        return rules

    def _check(self, attributes: AdmissionAttributes, wanted: Sequence[PolicyRule]) -> None:
        user = attributes.user
        missing = uncovered(wanted, self._rules.rules_for(user, attributes.namespace))
        if missing:
            lines = sorted({described(rule) for rule in compacted(missing)})
            raise refuse(
                attributes,
                f'user "{user.name}" (groups={quoted(user.groups)}) is attempting to grant RBAC permissions not '
                "currently held:\n" + "\n".join(lines),
            )


def _role_of(binding: Object) -> tuple[str, str]:
    reference = binding.get("roleRef") or {}
    return reference.get("kind", ""), reference.get("name", "")


def _aggregates(role: Mapping[str, Any] | None) -> bool:
    return bool(((role or {}).get("aggregationRule") or {}).get("clusterRoleSelectors"))


def _same_but_for_housekeeping(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    def rest(obj: Mapping[str, Any]) -> dict[str, Any]:
        metadata = {key: value for key, value in obj["metadata"].items() if key not in _HOUSEKEEPING and value}
        return {key: value for key, value in obj.items() if value and key != "metadata"} | {"metadata": metadata}

    return rest(new) == rest(old)
