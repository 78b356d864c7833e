"""Kinds in versions that v1.36 no longer serves, and still knows by name.

Whoever sends one to a version that is served is told so, and not that there is no such kind.
https://kubernetes.io/docs/reference/using-api/deprecation-guide/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_RBAC: Final = frozenset({"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"})
_POLICIES: Final = frozenset({"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"})
_FLOWS: Final = frozenset({"FlowSchema", "PriorityLevelConfiguration"})
RETIRED: Final[Mapping[str, frozenset[str]]] = {
    "admissionregistration.k8s.io/v1alpha1": _POLICIES,
    "admissionregistration.k8s.io/v1beta1": _POLICIES
    | {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"},
    "apiextensions.k8s.io/v1beta1": frozenset({"CustomResourceDefinition"}),
    "apiregistration.k8s.io/v1beta1": frozenset({"APIService"}),
    "apps/v1beta1": frozenset({"ControllerRevision", "Deployment", "DeploymentRollback", "Scale", "StatefulSet"}),
    "apps/v1beta2": frozenset({"ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "Scale", "StatefulSet"}),
    "authentication.k8s.io/v1alpha1": frozenset({"SelfSubjectReview"}),
    "authentication.k8s.io/v1beta1": frozenset({"SelfSubjectReview", "TokenReview"}),
    "authorization.k8s.io/v1beta1": frozenset(
        {"LocalSubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview"}
    ),
    "batch/v1beta1": frozenset({"CronJob"}),
    "certificates.k8s.io/v1beta1": frozenset({"CertificateSigningRequest"}),
    "coordination.k8s.io/v1beta1": frozenset({"Lease"}),
    "discovery.k8s.io/v1beta1": frozenset({"EndpointSlice"}),
    "events.k8s.io/v1beta1": frozenset({"Event"}),
    "extensions/v1beta1": frozenset(
        {"DaemonSet", "Deployment", "DeploymentRollback", "Ingress", "NetworkPolicy", "ReplicaSet", "Scale"}
    ),
    "flowcontrol.apiserver.k8s.io/v1beta1": _FLOWS,
    "flowcontrol.apiserver.k8s.io/v1beta2": _FLOWS,
    "flowcontrol.apiserver.k8s.io/v1beta3": _FLOWS,
    "imagepolicy.k8s.io/v1alpha1": frozenset({"ImageReview"}),
    "networking.k8s.io/v1beta1": frozenset({"Ingress", "IngressClass"}),
    "node.k8s.io/v1alpha1": frozenset({"RuntimeClass"}),
    "node.k8s.io/v1beta1": frozenset({"RuntimeClass"}),
    "policy/v1beta1": frozenset({"Eviction", "PodDisruptionBudget"}),
    "rbac.authorization.k8s.io/v1alpha1": _RBAC,
    "rbac.authorization.k8s.io/v1beta1": _RBAC,
    "scheduling.k8s.io/v1beta1": frozenset({"PriorityClass"}),
    "storage.k8s.io/v1alpha1": frozenset({"CSIStorageCapacity", "VolumeAttachment", "VolumeAttributesClass"}),
    "storage.k8s.io/v1beta1": frozenset(
        {"CSIDriver", "CSINode", "CSIStorageCapacity", "StorageClass", "VolumeAttachment"}
    ),
}
# Groups whose kinds are known under another one, where they are the same objects.
_MOVED: Final[Mapping[tuple[str, str], str]] = {
    ("", "Event"): "events.k8s.io",
    ("extensions", "DaemonSet"): "apps",
    ("extensions", "Deployment"): "apps",
    ("extensions", "ReplicaSet"): "apps",
    ("apps", "Scale"): "autoscaling",
    ("extensions", "Scale"): "autoscaling",
    ("extensions", "Ingress"): "networking.k8s.io",
    ("extensions", "NetworkPolicy"): "networking.k8s.io",
}


def is_retired(api_version: str, kind: str) -> bool:
    """Is it a kind of a version that is not served any more?"""
    return kind in RETIRED.get(api_version, ())


def group_of_kind(group: str, kind: str) -> str:
    """The group under which a kind lives today: kinds of one name and group are the same objects."""
    return _MOVED.get((group, kind), group)
