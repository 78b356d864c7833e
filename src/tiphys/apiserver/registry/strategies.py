"""The table of strategies: which rules each stored resource follows. What is not listed follows `TableStrategy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tiphys.api.table import Resource
from tiphys.apiserver.registry.admissionregistration.policies import (
    AdmissionPolicyBindingStrategy,
    MutatingAdmissionPolicyStrategy,
    ValidatingAdmissionPolicyBindingStrategy,
    ValidatingAdmissionPolicyStrategy,
)
from tiphys.apiserver.registry.admissionregistration.webhooks import (
    MutatingWebhookConfigurationStrategy,
    ValidatingWebhookConfigurationStrategy,
)
from tiphys.apiserver.registry.apiextensions.customresourcedefinitions import CustomResourceDefinitionStrategy
from tiphys.apiserver.registry.apiregistration.apiservices import APIServiceStrategy
from tiphys.apiserver.registry.apps.controllerrevisions import ControllerRevisionStrategy
from tiphys.apiserver.registry.apps.daemonsets import DaemonSetStrategy
from tiphys.apiserver.registry.apps.deployments import DeploymentStrategy
from tiphys.apiserver.registry.apps.replicasets import ReplicaSetStrategy
from tiphys.apiserver.registry.apps.statefulsets import StatefulSetStrategy
from tiphys.apiserver.registry.autoscaling.horizontalpodautoscalers import HorizontalPodAutoscalerStrategy
from tiphys.apiserver.registry.batch.cronjobs import CronJobStrategy
from tiphys.apiserver.registry.batch.jobs import JobStrategy
from tiphys.apiserver.registry.certificates.signing import (
    CertificateSigningRequestStrategy,
    ClusterTrustBundleStrategy,
    PodCertificateRequestStrategy,
)
from tiphys.apiserver.registry.coordination.leasecandidates import LeaseCandidateStrategy
from tiphys.apiserver.registry.coordination.leases import LeaseStrategy
from tiphys.apiserver.registry.core.configmaps import ConfigMapStrategy
from tiphys.apiserver.registry.core.endpoints import EndpointsStrategy
from tiphys.apiserver.registry.core.limitranges import LimitRangeStrategy
from tiphys.apiserver.registry.core.namespaces import NamespaceStrategy
from tiphys.apiserver.registry.core.nodes import NodeStrategy
from tiphys.apiserver.registry.core.persistentvolumeclaims import PersistentVolumeClaimStrategy
from tiphys.apiserver.registry.core.persistentvolumes import PersistentVolumeStrategy
from tiphys.apiserver.registry.core.pods import PodStrategy
from tiphys.apiserver.registry.core.podtemplates import PodTemplateStrategy
from tiphys.apiserver.registry.core.replicationcontrollers import ReplicationControllerStrategy
from tiphys.apiserver.registry.core.resourcequotas import ResourceQuotaStrategy
from tiphys.apiserver.registry.core.secrets import SecretStrategy
from tiphys.apiserver.registry.core.serviceaccounts import ServiceAccountStrategy
from tiphys.apiserver.registry.core.services import ServiceStrategy
from tiphys.apiserver.registry.discovery.endpointslices import EndpointSliceStrategy
from tiphys.apiserver.registry.events.events import EventStrategy, NewEventStrategy
from tiphys.apiserver.registry.flowcontrol.levels import FlowSchemaStrategy, PriorityLevelConfigurationStrategy
from tiphys.apiserver.registry.kinds import TableStrategy
from tiphys.apiserver.registry.networking.ingressclasses import IngressClassStrategy
from tiphys.apiserver.registry.networking.ingresses import IngressStrategy
from tiphys.apiserver.registry.networking.ipaddresses import IPAddressStrategy
from tiphys.apiserver.registry.networking.networkpolicies import NetworkPolicyStrategy
from tiphys.apiserver.registry.networking.servicecidrs import ServiceCIDRStrategy
from tiphys.apiserver.registry.node.runtimeclasses import RuntimeClassStrategy
from tiphys.apiserver.registry.policy.poddisruptionbudgets import PodDisruptionBudgetStrategy
from tiphys.apiserver.registry.rbac.bindings import ClusterRoleBindingStrategy, RoleBindingStrategy
from tiphys.apiserver.registry.rbac.roles import ClusterRoleStrategy, RoleStrategy
from tiphys.apiserver.registry.resource.claims import ResourceClaimStrategy, ResourceClaimTemplateStrategy
from tiphys.apiserver.registry.resource.classes import (
    DeviceClassStrategy,
    DeviceTaintRuleStrategy,
    ResourceSliceStrategy,
)
from tiphys.apiserver.registry.scheduling.priorityclasses import PriorityClassStrategy
from tiphys.apiserver.registry.storage.csi import CSIDriverStrategy, CSINodeStrategy, CSIStorageCapacityStrategy
from tiphys.apiserver.registry.storage.storageclasses import StorageClassStrategy
from tiphys.apiserver.registry.storage.volumes import VolumeAttachmentStrategy, VolumeAttributesClassStrategy
from tiphys.apiserver.registry.storagemigration.storageversionmigrations import StorageVersionMigrationStrategy
from tiphys.apiserver.registry.strategy import Strategy

ADMISSION: Final = "admissionregistration.k8s.io"
CERTIFICATES: Final = "certificates.k8s.io"
FLOW_CONTROL: Final = "flowcontrol.apiserver.k8s.io"
NETWORKING: Final = "networking.k8s.io"
RBAC: Final = "rbac.authorization.k8s.io"
DEVICES: Final = "resource.k8s.io"
STORAGE: Final = "storage.k8s.io"

# (group, plural) → the strategy of its storage version.
STRATEGIES: Final[Mapping[tuple[str, str], type[Strategy]]] = {
    ("", "configmaps"): ConfigMapStrategy,
    ("", "endpoints"): EndpointsStrategy,
    ("", "events"): EventStrategy,
    ("", "limitranges"): LimitRangeStrategy,
    ("", "namespaces"): NamespaceStrategy,
    ("", "nodes"): NodeStrategy,
    ("", "persistentvolumeclaims"): PersistentVolumeClaimStrategy,
    ("", "persistentvolumes"): PersistentVolumeStrategy,
    ("", "pods"): PodStrategy,
    ("", "podtemplates"): PodTemplateStrategy,
    ("", "replicationcontrollers"): ReplicationControllerStrategy,
    ("", "resourcequotas"): ResourceQuotaStrategy,
    ("", "secrets"): SecretStrategy,
    ("", "serviceaccounts"): ServiceAccountStrategy,
    ("", "services"): ServiceStrategy,
    ("apps", "controllerrevisions"): ControllerRevisionStrategy,
    ("apps", "daemonsets"): DaemonSetStrategy,
    ("apps", "deployments"): DeploymentStrategy,
    ("apps", "replicasets"): ReplicaSetStrategy,
    ("apps", "statefulsets"): StatefulSetStrategy,
    ("coordination.k8s.io", "leases"): LeaseStrategy,
    ("discovery.k8s.io", "endpointslices"): EndpointSliceStrategy,
    (RBAC, "clusterrolebindings"): ClusterRoleBindingStrategy,
    (RBAC, "clusterroles"): ClusterRoleStrategy,
    (RBAC, "rolebindings"): RoleBindingStrategy,
    (RBAC, "roles"): RoleStrategy,
    (ADMISSION, "mutatingadmissionpolicies"): MutatingAdmissionPolicyStrategy,
    (ADMISSION, "mutatingadmissionpolicybindings"): AdmissionPolicyBindingStrategy,
    (ADMISSION, "mutatingwebhookconfigurations"): MutatingWebhookConfigurationStrategy,
    (ADMISSION, "validatingadmissionpolicies"): ValidatingAdmissionPolicyStrategy,
    (ADMISSION, "validatingadmissionpolicybindings"): ValidatingAdmissionPolicyBindingStrategy,
    (ADMISSION, "validatingwebhookconfigurations"): ValidatingWebhookConfigurationStrategy,
    ("apiextensions.k8s.io", "customresourcedefinitions"): CustomResourceDefinitionStrategy,
    ("apiregistration.k8s.io", "apiservices"): APIServiceStrategy,
    ("autoscaling", "horizontalpodautoscalers"): HorizontalPodAutoscalerStrategy,
    ("batch", "cronjobs"): CronJobStrategy,
    ("batch", "jobs"): JobStrategy,
    (CERTIFICATES, "certificatesigningrequests"): CertificateSigningRequestStrategy,
    (CERTIFICATES, "clustertrustbundles"): ClusterTrustBundleStrategy,
    (CERTIFICATES, "podcertificaterequests"): PodCertificateRequestStrategy,
    ("coordination.k8s.io", "leasecandidates"): LeaseCandidateStrategy,
    ("events.k8s.io", "events"): NewEventStrategy,
    (FLOW_CONTROL, "flowschemas"): FlowSchemaStrategy,
    (FLOW_CONTROL, "prioritylevelconfigurations"): PriorityLevelConfigurationStrategy,
    (NETWORKING, "ingressclasses"): IngressClassStrategy,
    (NETWORKING, "ingresses"): IngressStrategy,
    (NETWORKING, "ipaddresses"): IPAddressStrategy,
    (NETWORKING, "networkpolicies"): NetworkPolicyStrategy,
    (NETWORKING, "servicecidrs"): ServiceCIDRStrategy,
    ("node.k8s.io", "runtimeclasses"): RuntimeClassStrategy,
    ("policy", "poddisruptionbudgets"): PodDisruptionBudgetStrategy,
    (DEVICES, "deviceclasses"): DeviceClassStrategy,
    (DEVICES, "devicetaintrules"): DeviceTaintRuleStrategy,
    (DEVICES, "resourceclaims"): ResourceClaimStrategy,
    (DEVICES, "resourceclaimtemplates"): ResourceClaimTemplateStrategy,
    (DEVICES, "resourceslices"): ResourceSliceStrategy,
    ("scheduling.k8s.io", "priorityclasses"): PriorityClassStrategy,
    (STORAGE, "csidrivers"): CSIDriverStrategy,
    (STORAGE, "csinodes"): CSINodeStrategy,
    (STORAGE, "csistoragecapacities"): CSIStorageCapacityStrategy,
    (STORAGE, "storageclasses"): StorageClassStrategy,
    (STORAGE, "volumeattachments"): VolumeAttachmentStrategy,
    (STORAGE, "volumeattributesclasses"): VolumeAttributesClassStrategy,
    ("storagemigration.k8s.io", "storageversionmigrations"): StorageVersionMigrationStrategy,
}


def strategy_for(resource: Resource) -> Strategy:
    """The strategy of a resource, given in its storage version."""
    return STRATEGIES.get((resource.group, resource.plural), TableStrategy)(resource)
