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
    ClusterTrustBundleAttest,
)
from tiphys.apiserver.admission.event_rate import EventRateLimit
from tiphys.apiserver.admission.image_policy import ImagePolicyWebhook
from tiphys.apiserver.admission.interface import AdmissionChain
from tiphys.apiserver.admission.lifecycle import NamespaceLifecycle
from tiphys.apiserver.admission.limit_ranger import LimitRanger
from tiphys.apiserver.admission.namespaces import NamespaceAutoProvision, NamespaceExists
from tiphys.apiserver.admission.node_features import NodeDeclaredFeatureValidator
from tiphys.apiserver.admission.node_restriction import NodeRestriction
from tiphys.apiserver.admission.optional_pods import (
    AlwaysPullImages,
    ExtendedResourceToleration,
    LimitPodHardAntiAffinityTopology,
)
from tiphys.apiserver.admission.owners import OwnerReferencesPermissionEnforcement
from tiphys.apiserver.admission.placement import PodNodeSelector, PodTolerationRestriction
from tiphys.apiserver.admission.pod_groups import PodGroupWorkloadExists
from tiphys.apiserver.admission.pod_resize import PodResizeValidator
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
from tiphys.apiserver.admission.simple import AlwaysAdmit, AlwaysDeny, DenyServiceExternalIPs
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
    AlwaysAdmit,
    NamespaceAutoProvision,
    NamespaceLifecycle,
    NamespaceExists,
    LimitPodHardAntiAffinityTopology,
    LimitRanger,
    ServiceAccount,
    NodeRestriction,
    TaintNodesByCondition,
    AlwaysPullImages,
    ImagePolicyWebhook,
    PodSecurity,
    PodNodeSelector,
    Priority,
    DefaultTolerationSeconds,
    PodTolerationRestriction,
    EventRateLimit,
    ExtendedResourceToleration,
    DefaultStorageClass,
    StorageObjectInUseProtection,
    OwnerReferencesPermissionEnforcement,
    PersistentVolumeClaimResize,
    RuntimeClass,
    CertificateApproval,
    CertificateSigning,
    ClusterTrustBundleAttest,
    CertificateSubjectRestriction,
    DefaultIngressClass,
    DenyServiceExternalIPs,
    PodTopologyLabels,
    PodGroupWorkloadExists,
    NodeDeclaredFeatureValidator,
    PodResizeValidator,
    MutatingAdmissionPolicy,
    MutatingAdmissionWebhook,
    ValidatingAdmissionPolicy,
    ValidatingAdmissionWebhook,
    ResourceQuota,
    AlwaysDeny,
)
# On by default in v1.36, where they do nothing while feature gates are off that are off by default and that we do not
# have: WorkloadWithJob (parallelism of a Job that has a group) and GenericWorkload (a finalizer for a controller that
# runs with that gate alone). Their names may be given, and do nothing here either.
OF_OTHER_FEATURES: Final = frozenset(("JobValidation", "PodGroupProtection"))
# Not a plug-in to turn off, but part of what roles are: after everything that changes them.
ALWAYS: Final[tuple[type[AdmissionPlugin], ...]] = (RoleEscalation,)
# Those that have to be asked for with --enable-admission-plugins.
OFF_BY_DEFAULT: Final = frozenset(
    (
        "AlwaysAdmit",
        "AlwaysDeny",
        "AlwaysPullImages",
        "DenyServiceExternalIPs",
        "EventRateLimit",
        "ExtendedResourceToleration",
        "ImagePolicyWebhook",
        "LimitPodHardAntiAffinityTopology",
        "NamespaceAutoProvision",
        "NamespaceExists",
        "NodeRestriction",
        "OwnerReferencesPermissionEnforcement",
        "PodNodeSelector",
        "PodTolerationRestriction",
    )
)


def admission_chain(
    parts: AdmissionParts, enabled: Collection[str] = (), disabled: Collection[str] = ()
) -> AdmissionChain:
    """The chain for `--enable-admission-plugins` and `--disable-admission-plugins`.

    Raises ValueError for a name that does not exist, worded as upstream words it.
    """
    known = {plugin.name for plugin in PLUGINS} | OF_OTHER_FEATURES
    problems = [
        f'{flag}-admission-plugins plugin "{name}" is unknown'
        for flag, names in (("enable", enabled), ("disable", disabled))
        for name in names
        if name not in known
    ]
    twice = [name for name in enabled if name in disabled]
    if twice:
        shown = " ".join(twice)
        problems.append(f"[{shown}] in enable-admission-plugins and disable-admission-plugins overlapped")
    if problems:
        raise ValueError(problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]")
    on = [
        plugin
        for plugin in PLUGINS
        if plugin.name not in disabled and (plugin.name not in OFF_BY_DEFAULT or plugin.name in enabled)
    ]
    return AdmissionChain([plugin(parts) for plugin in (*on, *ALWAYS)])
