"""The plug-ins that need nothing but the write itself: everything passes, nothing passes, no external addresses.

https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

from __future__ import annotations

from tiphys.apiserver.admission.base import AdmissionPlugin, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes


class AlwaysAdmit(AdmissionPlugin):
    """Everything passes. Deprecated: that is what no plug-in does."""

    name = "AlwaysAdmit"

    def handles(self, attributes: AdmissionAttributes) -> bool:
        return False


class AlwaysDeny(AdmissionPlugin):
    """Nothing passes. Deprecated: for tests."""

    name = "AlwaysDeny"

    def handles(self, attributes: AdmissionAttributes) -> bool:
        return True

    async def admit(self, attributes: AdmissionAttributes) -> None:
        raise refuse(attributes, "admission control is denying all modifications")

    async def validate(self, attributes: AdmissionAttributes) -> None:
        raise refuse(attributes, "admission control is denying all modifications")


class DenyServiceExternalIPs(AdmissionPlugin):
    """No Service gets addresses that nobody has checked; those it has may stay or go."""

    name = "DenyServiceExternalIPs"
    resources = frozenset({("", "services")})

    async def validate(self, attributes: AdmissionAttributes) -> None:
        def addresses(service: object) -> set[str]:
            spec = service.get("spec") if isinstance(service, dict) else None
            return set((spec or {}).get("externalIPs") or ())

        if addresses(attributes.object) - addresses(attributes.old_object):
            raise refuse(attributes, "Use of external IPs is denied by admission control")
