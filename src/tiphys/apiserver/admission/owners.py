"""OwnerReferencesPermissionEnforcement: who makes an object go with another must be allowed to delete it.

And who makes the deletion of an owner wait for an object must be allowed to do so to the owner.
https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#ownerreferencespermissionenforcement
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiphys.apiserver.admission.base import AdmissionParts, AdmissionPlugin, name_of, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.apiserver.authz.interface import Attributes, Decision

Reference = Mapping[str, Any]


class OwnerReferencesPermissionEnforcement(AdmissionPlugin):
    """Looks at what changes in owner references."""

    name = "OwnerReferencesPermissionEnforcement"

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        self._versions = parts.versions

    async def validate(self, attributes: AdmissionAttributes) -> None:
        new, old = _references(attributes.object), _references(attributes.old_object)
        if new == old:
            return
        if attributes.operation is Operation.UPDATE or new:
            decision = self._may(attributes, "delete")
            if attributes.operation is Operation.UPDATE and not decision.allowed:
                raise refuse(
                    attributes, f"cannot set an ownerRef on a resource you can't delete: {decision.reason}, <nil>"
                )
        anywhere = Attributes(
            user=attributes.user,
            verb="update",
            resource_request=True,
            api_group="*",
            api_version="*",
            resource="*",
            subresource="finalizers",
        )
        if not any(one.get("blockOwnerDeletion") for one in new) or self.authorizer.authorize(anywhere).allowed:
            return
        known = {_key(one) for one in old if one.get("blockOwnerDeletion")}
        for one in new:
            if one.get("blockOwnerDeletion") and _key(one) not in known:
                self._check_owner(attributes, one)

    def _may(self, attributes: AdmissionAttributes, verb: str) -> Decision:
        resource = attributes.resource
        return self.authorizer.authorize(
            Attributes(
                user=attributes.user,
                verb=verb,
                resource_request=True,
                api_group=resource.group,
                api_version=resource.version,
                namespace=attributes.namespace,
                resource=resource.resource,
                subresource=attributes.subresource,
                name=name_of(attributes),
            )
        )

    def _check_owner(self, attributes: AdmissionAttributes, owner: Reference) -> None:
        group, _, version = str(owner.get("apiVersion") or "").rpartition("/")
        found = self._versions.of_kind(group, version, str(owner.get("kind") or ""))
        if found is None:
            raise refuse(
                attributes,
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion "
                f"{owner.get('apiVersion')} Kind {owner.get('kind')}",
            )
        decision = self.authorizer.authorize(
            Attributes(
                user=attributes.user,
                verb="update",
                resource_request=True,
                api_group=found.group,
                api_version=found.version,
                namespace=attributes.namespace if found.namespaced else "",
                resource=found.plural,
                subresource="finalizers",
                name=str(owner.get("name") or ""),
            )
        )
        if not decision.allowed:
            raise refuse(
                attributes,
                "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: "
                f"{decision.reason}, <nil>",
            )


def _references(obj: Mapping[str, Any] | None) -> list[Reference]:
    return list(((obj or {}).get("metadata") or {}).get("ownerReferences") or ())


def _key(reference: Reference) -> tuple[str, str]:
    return str(reference.get("uid") or ""), str(reference.get("name") or "")
