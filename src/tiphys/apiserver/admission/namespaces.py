"""Namespaces that have to be there, and namespaces that come when they are needed.

https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#namespaceautoprovision
"""

from __future__ import annotations

from typing import Final

from tiphys.apiserver.admission.base import AdmissionParts, AdmissionPlugin
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.machinery.errors import not_found
from tiphys.machinery.meta import GroupResource, ObjectName

NAMESPACES: Final = GroupResource("", "namespaces")


class NamespaceExists(AdmissionPlugin):
    """No write in a namespace that is not there."""

    name = "NamespaceExists"

    def handles(self, attributes: AdmissionAttributes) -> bool:
        return attributes.resource[::2] != ("", "namespaces")

    async def validate(self, attributes: AdmissionAttributes) -> None:
        namespace = attributes.namespace
        if namespace and self.reader.get("", "namespaces", ObjectName("", namespace)) is None:
            raise not_found(NAMESPACES, namespace)


class NamespaceAutoProvision(AdmissionPlugin):
    """Makes the namespace of what is created."""

    name = "NamespaceAutoProvision"
    operations = frozenset({Operation.CREATE})

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        self._writer = parts.statuses

    def handles(self, attributes: AdmissionAttributes) -> bool:
        return attributes.operation in self.operations and attributes.resource[::2] != ("", "namespaces")

    async def admit(self, attributes: AdmissionAttributes) -> None:
        namespace = attributes.namespace
        if not namespace or attributes.dry_run:
            return
        if self.reader.get("", "namespaces", ObjectName("", namespace)) is None:
            await self._writer.create("", "v1", "namespaces", {"metadata": {"name": namespace}})
