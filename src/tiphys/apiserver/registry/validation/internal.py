"""Values as some API messages show them: complete, every field under its capitalised name.

A few messages of the API print a whole struct ("Invalid value: {"Type":"X","RollingUpdate":null}: …") or the difference
of two. Clients that compare messages see those names, so the shapes are kept here as data: one line a type, fields in
their printed order. A field is `Name:kind`, the kind one of

    s i b     string, integer, bool (empty when unset)      s* i* b*  the same, null when unset
    x         anything, printed as it is, null when unset   v         an int-or-string, 0 when unset
    T         a struct of type T, always printed            *T        the same, null when unset
    []T       a list of T, null when empty                  +T        the fields of T, inlined
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

Json = Mapping[str, Any]

_CONTAINER: Final = (
    "Name:s Image:s Command:x Args:x WorkingDir:s Ports:[]ContainerPort EnvFrom:[]EnvFromSource Env:[]EnvVar "
    "Resources:ResourceRequirements ResizePolicy:[]ContainerResizePolicy RestartPolicy:s* "
    "RestartPolicyRules:[]ContainerRestartRule VolumeMounts:[]VolumeMount VolumeDevices:[]VolumeDevice "
    "LivenessProbe:*Probe ReadinessProbe:*Probe StartupProbe:*Probe Lifecycle:*Lifecycle TerminationMessagePath:s "
    "TerminationMessagePolicy:s ImagePullPolicy:s SecurityContext:*SecurityContext Stdin:b StdinOnce:b TTY:b"
)
TYPES: Final[Mapping[str, str]] = {
    "PodSpec": "Volumes:[]Volume InitContainers:[]Container Containers:[]Container "
    "EphemeralContainers:[]EphemeralContainer "
    "RestartPolicy:s TerminationGracePeriodSeconds:i* ActiveDeadlineSeconds:i* DNSPolicy:s NodeSelector:x "
    "ServiceAccountName:s AutomountServiceAccountToken:b* NodeName:s SecurityContext:*PodSecurityContext "
    "ImagePullSecrets:[]LocalObjectReference Hostname:s Subdomain:s SetHostnameAsFQDN:b* Affinity:*Affinity "
    "SchedulerName:s "
    "Tolerations:[]Toleration HostAliases:[]HostAlias PriorityClassName:s Priority:i* PreemptionPolicy:s* "
    "DNSConfig:*PodDNSConfig ReadinessGates:[]PodReadinessGate RuntimeClassName:s* Overhead:x EnableServiceLinks:b* "
    "TopologySpreadConstraints:[]TopologySpreadConstraint OS:*PodOS SchedulingGates:[]PodSchedulingGate "
    "ResourceClaims:[]PodResourceClaim Resources:*ResourceRequirements HostnameOverride:s* SchedulingGroup:x",
    "Container": _CONTAINER,
    "EphemeralContainer": _CONTAINER + " TargetContainerName:s",
    "PodSecurityContext": "HostNetwork:b HostPID:b HostIPC:b ShareProcessNamespace:b* HostUsers:b* "
    "SELinuxOptions:*SELinuxOptions "
    "WindowsOptions:*WindowsOptions RunAsUser:i* RunAsGroup:i* RunAsNonRoot:b* SupplementalGroups:x "
    "SupplementalGroupsPolicy:s* FSGroup:i* FSGroupChangePolicy:s* Sysctls:[]Sysctl SeccompProfile:*SeccompProfile "
    "AppArmorProfile:*SeccompProfile SELinuxChangePolicy:s*",
    "SecurityContext": "Capabilities:*Capabilities Privileged:b* SELinuxOptions:*SELinuxOptions "
    "WindowsOptions:*WindowsOptions "
    "RunAsUser:i* RunAsGroup:i* RunAsNonRoot:b* ReadOnlyRootFilesystem:b* AllowPrivilegeEscalation:b* ProcMount:s* "
    "SeccompProfile:*SeccompProfile AppArmorProfile:*SeccompProfile",
    "Capabilities": "Add:x Drop:x",
    "SELinuxOptions": "User:s Role:s Type:s Level:s",
    "WindowsOptions": "GMSACredentialSpecName:s* GMSACredentialSpec:s* RunAsUserName:s* HostProcess:b*",
    "SeccompProfile": "Type:s LocalhostProfile:s*",
    "Sysctl": "Name:s Value:s",
    "ContainerPort": "Name:s HostPort:i ContainerPort:i Protocol:s HostIP:s",
    "EnvFromSource": "Prefix:s ConfigMapRef:*NamedOptional SecretRef:*NamedOptional",
    "NamedOptional": "Name:s Optional:b*",
    "EnvVar": "Name:s Value:s ValueFrom:*EnvVarSource",
    "EnvVarSource": "FieldRef:*ObjectFieldSelector ResourceFieldRef:*ResourceFieldSelector "
    "ConfigMapKeyRef:*KeySelector "
    "SecretKeyRef:*KeySelector FileKeyRef:*FileKeySelector",
    "FileKeySelector": "VolumeName:s Path:s Key:s Optional:b*",
    "ObjectFieldSelector": "APIVersion:s FieldPath:s",
    "ResourceFieldSelector": "ContainerName:s Resource:s Divisor:s0",
    "KeySelector": "Name:s Key:s Optional:b*",
    "ResourceRequirements": "Limits:x Requests:x Claims:[]ResourceClaim",
    "ResourceClaim": "Name:s Request:s",
    "ContainerResizePolicy": "ResourceName:s RestartPolicy:s",
    "ContainerRestartRule": "Action:s ExitCodes:*ExitCodes",
    "ExitCodes": "Operator:s Values:x",
    "VolumeMount": "Name:s ReadOnly:b RecursiveReadOnly:s* MountPath:s SubPath:s MountPropagation:s* SubPathExpr:s",
    "VolumeDevice": "Name:s DevicePath:s",
    "Probe": "Exec:*ExecAction HTTPGet:*HTTPGetAction TCPSocket:*TCPSocketAction GRPC:*GRPCAction "
    "InitialDelaySeconds:i "
    "TimeoutSeconds:i PeriodSeconds:i SuccessThreshold:i FailureThreshold:i TerminationGracePeriodSeconds:i*",
    "Lifecycle": "PostStart:*LifecycleHandler PreStop:*LifecycleHandler StopSignal:s*",
    "LifecycleHandler": "Exec:*ExecAction HTTPGet:*HTTPGetAction TCPSocket:*TCPSocketAction Sleep:*SleepAction",
    "ExecAction": "Command:x",
    "HTTPGetAction": "Path:s Port:v Host:s Scheme:s HTTPHeaders:[]HTTPHeader",
    "HTTPHeader": "Name:s Value:s",
    "TCPSocketAction": "Port:v Host:s",
    "GRPCAction": "Port:i Service:s*",
    "SleepAction": "Seconds:i",
    "LocalObjectReference": "Name:s",
    "Affinity": "NodeAffinity:*NodeAffinity PodAffinity:*PodAffinity PodAntiAffinity:*PodAffinity",
    "NodeAffinity": "RequiredDuringSchedulingIgnoredDuringExecution:*NodeSelector "
    "PreferredDuringSchedulingIgnoredDuringExecution:[]PreferredSchedulingTerm",
    "NodeSelector": "NodeSelectorTerms:[]NodeSelectorTerm",
    "NodeSelectorTerm": "MatchExpressions:[]NodeSelectorRequirement MatchFields:[]NodeSelectorRequirement",
    "NodeSelectorRequirement": "Key:s Operator:s Values:x",
    "PreferredSchedulingTerm": "Weight:i Preference:NodeSelectorTerm",
    "PodAffinity": "RequiredDuringSchedulingIgnoredDuringExecution:[]PodAffinityTerm "
    "PreferredDuringSchedulingIgnoredDuringExecution:[]WeightedPodAffinityTerm",
    "PodAffinityTerm": "LabelSelector:x Namespaces:x TopologyKey:s NamespaceSelector:x MatchLabelKeys:x "
    "MismatchLabelKeys:x",
    "WeightedPodAffinityTerm": "Weight:i PodAffinityTerm:PodAffinityTerm",
    "Toleration": "Key:s Operator:s Value:s Effect:s TolerationSeconds:i*",
    "HostAlias": "IP:s Hostnames:x",
    "PodDNSConfig": "Nameservers:x Searches:x Options:[]DNSOption",
    "DNSOption": "Name:s Value:s*",
    "PodReadinessGate": "ConditionType:s",
    "TopologySpreadConstraint": "MaxSkew:i TopologyKey:s WhenUnsatisfiable:s LabelSelector:x MinDomains:i* "
    "NodeAffinityPolicy:s* NodeTaintsPolicy:s* MatchLabelKeys:x",
    "PodOS": "Name:s",
    "PodSchedulingGate": "Name:s",
    "PodResourceClaim": "Name:s ResourceClaimName:s* ResourceClaimTemplateName:s*",
    "Volume": "Name:s HostPath:*HostPath EmptyDir:*EmptyDir GCEPersistentDisk:x AWSElasticBlockStore:x GitRepo:x "
    "Secret:*SecretVolume NFS:*NFS ISCSI:x Glusterfs:x PersistentVolumeClaim:*ClaimVolume RBD:x Quobyte:x "
    "FlexVolume:x "
    "Cinder:x CephFS:x Flocker:x DownwardAPI:*DownwardAPIVolume FC:x AzureFile:x ConfigMap:*ConfigMapVolume "
    "VsphereVolume:x AzureDisk:x PhotonPersistentDisk:x Projected:*Projected PortworxVolume:x ScaleIO:x "
    "StorageOS:x CSI:x "
    "Ephemeral:*EphemeralVolume Image:*ImageVolume",
    "EphemeralVolume": "VolumeClaimTemplate:*PersistentVolumeClaimTemplate",
    "PersistentVolumeClaimTemplate": "+ObjectMeta Spec:PersistentVolumeClaimSpec",
    "DaemonSetUpdateStrategy": "Type:s RollingUpdate:*RollingUpdateDaemonSet",
    "RollingUpdateDaemonSet": "MaxUnavailable:v MaxSurge:v",
    "DeploymentStrategy": "Type:s RollingUpdate:*RollingUpdateDaemonSet",
    "ScopeSelector": "MatchExpressions:[]ScopedSelectorRequirement",
    "ScopedSelectorRequirement": "ScopeName:s Operator:s Values:x",
    "HostPath": "Path:s Type:s*",
    "EmptyDir": "Medium:s SizeLimit:s*",
    "SecretVolume": "SecretName:s Items:[]KeyToPath DefaultMode:i* Optional:b*",
    "KeyToPath": "Key:s Path:s Mode:i*",
    "NFS": "Server:s Path:s ReadOnly:b",
    "ClaimVolume": "ClaimName:s ReadOnly:b",
    "DownwardAPIVolume": "Items:[]DownwardAPIFile DefaultMode:i*",
    "DownwardAPIFile": "Path:s FieldRef:*ObjectFieldSelector ResourceFieldRef:*ResourceFieldSelector Mode:i*",
    "ConfigMapVolume": "Name:s Items:[]KeyToPath DefaultMode:i* Optional:b*",
    "Projected": "Sources:[]VolumeProjection DefaultMode:i*",
    "VolumeProjection": "Secret:*NamedItems DownwardAPI:*DownwardAPIProjection ConfigMap:*NamedItems "
    "ServiceAccountToken:*TokenProjection ClusterTrustBundle:x PodCertificate:x",
    "NamedItems": "Name:s Items:[]KeyToPath Optional:b*",
    "DownwardAPIProjection": "Items:[]DownwardAPIFile",
    "TokenProjection": "Audience:s ExpirationSeconds:i Path:s",
    "ImageVolume": "Reference:s PullPolicy:s",
    "PodTemplateSpec": "+ObjectMeta Spec:PodSpec",
    "ServicePort": "Name:s Protocol:s AppProtocol:s* Port:i TargetPort:v NodePort:i",
    "Taint": "Key:s Value:s Effect:s TimeAdded:s*",
    "StatefulSetUpdateStrategy": "Type:s RollingUpdate:*RollingUpdateStatefulSet",
    "RollingUpdateStatefulSet": "Partition:i MaxUnavailable:x",
    "PodDisruptionBudgetSpec": "MinAvailable:x Selector:x MaxUnavailable:x UnhealthyPodEvictionPolicy:s*",
    "ServiceCIDRSpec": "CIDRs:x",
    "ParentReference": "Group:s Resource:s Namespace:s Name:s",
    "RoleRef": "APIGroup:s Kind:s Name:s",
    "PodFailurePolicy": "Rules:[]PodFailurePolicyRule",
    "PodFailurePolicyRule": "Action:s OnExitCodes:*OnExitCodes OnPodConditions:[]OnPodConditions",
    "OnExitCodes": "ContainerName:s* Operator:s Values:x",
    "OnPodConditions": "Type:s Status:s",
    "SuccessPolicy": "Rules:[]SuccessPolicyRule",
    "SuccessPolicyRule": "SucceededIndexes:s* SucceededCount:i*",
    "PersistentVolumeClaimSpec": "AccessModes:x Selector:x Resources:VolumeResourceRequirements VolumeName:s "
    "StorageClassName:s* VolumeMode:s* DataSource:*TypedLocalObjectReference DataSourceRef:*TypedObjectReference "
    "VolumeAttributesClassName:s*",
    "VolumeResourceRequirements": "Limits:x Requests:x",
    "TypedLocalObjectReference": "APIGroup:s* Kind:s Name:s",
    "TypedObjectReference": "APIGroup:s* Kind:s Name:s Namespace:s*",
    "PersistentVolumeSource": "GCEPersistentDisk:x AWSElasticBlockStore:x HostPath:*HostPath Glusterfs:x "
    "NFS:*NFS RBD:x "
    "Quobyte:x ISCSI:x FlexVolume:x Cinder:x CephFS:x FC:x Flocker:x AzureFile:x VsphereVolume:x AzureDisk:x "
    "PhotonPersistentDisk:x PortworxVolume:x ScaleIO:x Local:*LocalVolume StorageOS:x CSI:x",
    "LocalVolume": "Path:s FSType:s*",
    "ResourceClaimSpec": "Devices:DeviceClaim",
    "ResourceClaimTemplateSpec": "+ObjectMeta Spec:ResourceClaimSpec",
    "DeviceClaim": "Requests:[]DeviceRequest Constraints:[]DeviceConstraint Config:[]DeviceClaimConfiguration",
    "DeviceRequest": "Name:s Exactly:*ExactDeviceRequest FirstAvailable:[]DeviceSubRequest",
    "ExactDeviceRequest": "DeviceClassName:s Selectors:[]DeviceSelector AllocationMode:s Count:i AdminAccess:b* "
    "Tolerations:[]Toleration Capacity:*CapacityRequirements",
    "DeviceSubRequest": "Name:s DeviceClassName:s Selectors:[]DeviceSelector AllocationMode:s Count:i "
    "Tolerations:[]Toleration Capacity:*CapacityRequirements",
    "DeviceSelector": "CEL:*CELDeviceSelector",
    "CELDeviceSelector": "Expression:s",
    "CapacityRequirements": "Requests:x",
    "DeviceConstraint": "Requests:x MatchAttribute:s* DistinctAttribute:s*",
    "DeviceClaimConfiguration": "Requests:x Opaque:*OpaqueDeviceConfiguration",
    "OpaqueDeviceConfiguration": "Driver:s Parameters:x",
    "VolumeAttachmentSpec": "Attacher:s Source:VolumeAttachmentSource NodeName:s",
    "VolumeAttachmentSource": "PersistentVolumeName:s* InlineVolumeSpec:x",
    "CSINodeDriver": "Name:s NodeID:s TopologyKeys:x Allocatable:x",
    "FlowSchemaSpec": "PriorityLevelConfiguration:LocalObjectReference MatchingPrecedence:i "
    "DistinguisherMethod:*FlowDistinguisherMethod Rules:[]FlowRule",
    "FlowDistinguisherMethod": "Type:s",
    "FlowRule": "Subjects:[]FlowSubject ResourceRules:[]FlowResourceRule NonResourceRules:[]FlowNonResourceRule",
    "FlowSubject": "Kind:s User:*LocalObjectReference Group:*LocalObjectReference ServiceAccount:*FlowServiceAccount",
    "FlowServiceAccount": "Namespace:s Name:s",
    "FlowResourceRule": "Verbs:x APIGroups:x Resources:x ClusterScope:b Namespaces:x",
    "FlowNonResourceRule": "Verbs:x NonResourceURLs:x",
    "PriorityLevelConfigurationSpec": "Type:s Limited:*LimitedLevel Exempt:*ExemptLevel",
    "LimitedLevel": "NominalConcurrencyShares:i LimitResponse:LimitResponse LendablePercent:i* "
    "BorrowingLimitPercent:i*",
    "LimitResponse": "Type:s Queuing:*Queuing",
    "Queuing": "Queues:i HandSize:i QueueLengthLimit:i",
    "ExemptLevel": "NominalConcurrencyShares:i* LendablePercent:i*",
}
_JSON_NAMES: Final = {
    "StorageOS": "storageos",
    "CephFS": "cephfs",
    "CIDRs": "cidrs",
    "GMSACredentialSpecName": "gmsaCredentialSpecName",
}
_SCALARS: Final[Mapping[str, Any]] = {"s": "", "i": 0, "b": False, "v": 0, "s0": "0", "x": None}
_POD_LEVEL_CONTEXT: Final = ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers")


@cache
def _fields(type_name: str) -> tuple[tuple[str, str, str], ...]:
    """(printed name, JSON name, kind) of each field."""
    fields = []
    for item in TYPES[type_name].split():
        name, _, kind = item.partition(":")
        fields.append((name, _json_name(name), kind))
    return tuple(fields)


def _json_name(name: str) -> str:
    if name in _JSON_NAMES:
        return _JSON_NAMES[name]
    match = re.match("[A-Z]+", name)
    run = match.end() if match else 0
    if run <= 1 or run == len(name):
        return name[:run].lower() + name[run:]
    return name[: run - 1].lower() + name[run - 1 :]


def internal_form(type_name: str, value: Json) -> dict[str, Any]:
    """`value` with every field of `type_name`, in printed order."""
    if type_name == "PodSpec":
        value = _with_host_context(value)
    form: dict[str, Any] = {}
    for printed, name, kind in _fields(type_name):
        if printed == "+ObjectMeta":
            form |= {key: one for key, one in (value.get("metadata") or {}).items() if one}
        else:
            form[printed] = _render(kind, value.get(name))
    return form


def _render(kind: str, value: Any) -> Any:
    if kind.startswith("[]"):
        return [internal_form(kind[2:], one) for one in value] if value else None
    if kind.startswith("*"):
        return None if value is None else internal_form(kind[1:], value)
    if kind in _SCALARS:
        return _SCALARS[kind] if value is None else (value or None if kind == "x" else value)
    if kind.endswith("*"):
        return value
    return internal_form(kind, value or {})


def _with_host_context(spec: Json) -> Json:
    """The host namespaces are printed as part of the security context."""
    context = dict(spec.get("securityContext") or {})
    for name in _POD_LEVEL_CONTEXT:
        if spec.get(name) is not None:
            context[name] = spec[name]
    return {**spec, "securityContext": context if context or spec.get("securityContext") is not None else None}


def difference(type_name: str, old: Json, new: Json) -> str:
    """A unified difference of two values, as messages about forbidden changes end with."""
    before, after = (
        json.dumps(internal_form(type_name, value), indent=1, ensure_ascii=False).splitlines() for value in (old, new)
    )
    lines = list(difflib.unified_diff(before, after, lineterm="", n=3))[2:]
    return "".join(line + "\n" for line in lines)
