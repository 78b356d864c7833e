"""The plug-ins that are on, in the order they are asked: upstream's order, which matters for the mutating ones.

https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from tiphys.apiserver.admission.base import AdmissionParts, AdmissionPlugin
from tiphys.apiserver.admission.certificates import (
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
)
from tiphys.apiserver.admission.interface import AdmissionChain
from tiphys.apiserver.admission.lifecycle import NamespaceLifecycle
from tiphys.apiserver.admission.limit_ranger import LimitRanger
from tiphys.apiserver.admission.node_restriction import NodeRestriction
from tiphys.apiserver.admission.pod_security.plugin import PodSecurity
from tiphys.apiserver.admission.pods import (
    DefaultTolerationSeconds,
    PodTopologyLabels,
    Priority,
    RuntimeClass,
    TaintNodesByCondition,
)
from tiphys.apiserver.admission.policies.mutating import MutatingAdmissionPolicy
from tiphys.apiserver.admission.policies.validating import ValidatingAdmissionPolicy
from tiphys.apiserver.admission.quota.plugin import ResourceQuota
from tiphys.apiserver.admission.service_account import ServiceAccount
from tiphys.apiserver.admission.storage import (
    DefaultIngressClass,
    DefaultStorageClass,
    PersistentVolumeClaimResize,
    StorageObjectInUseProtection,
)
from tiphys.apiserver.admission.webhooks.mutating import MutatingAdmissionWebhook
from tiphys.apiserver.admission.webhooks.validating import ValidatingAdmissionWebhook
from tiphys.apiserver.authz.escalation import RoleEscalation

PLUGINS: Final[tuple[type[AdmissionPlugin], ...]] = (
    NamespaceLifecycle,
    LimitRanger,
    ServiceAccount,
    NodeRestriction,
    TaintNodesByCondition,
    PodSecurity,
    Priority,
    DefaultTolerationSeconds,
    DefaultStorageClass,
    StorageObjectInUseProtection,
    PersistentVolumeClaimResize,
    RuntimeClass,
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
    DefaultIngressClass,
    PodTopologyLabels,
    MutatingAdmissionPolicy,
    MutatingAdmissionWebhook,
    ValidatingAdmissionPolicy,
    ValidatingAdmissionWebhook,
    ResourceQuota,
)
# Not a plug-in to turn off, but part of what roles are: after everything that changes them.
ALWAYS: Final[tuple[type[AdmissionPlugin], ...]] = (RoleEscalation,)
# Those that have to be asked for with --enable-admission-plugins.
OFF_BY_DEFAULT: Final = frozenset({"NodeRestriction"})


def admission_chain(
    parts: AdmissionParts, enabled: Collection[str] = (), disabled: Collection[str] = ()
) -> AdmissionChain:
    """The chain for `--enable-admission-plugins` and `--disable-admission-plugins`.

    Raises ValueError for a name that does not exist, worded as upstream words it.
    """
    known = {plugin.name for plugin in PLUGINS}
    for name in (*enabled, *disabled):
        if name not in known:
            raise ValueError(f'enable-admission-plugins plugin "{name}" is unknown')
    on = [
        plugin
        for plugin in PLUGINS
        if plugin.name not in disabled and (plugin.name not in OFF_BY_DEFAULT or plugin.name in enabled)
    ]
    return AdmissionChain([plugin(parts) for plugin in (*on, *ALWAYS)])
