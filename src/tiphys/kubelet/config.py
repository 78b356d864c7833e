"""KubeletConfiguration: what a kubelet is told, under upstream's field names.

`KubeletConfiguration.from_dict` reads the `kubelet.config.k8s.io/v1beta1` document
(https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/); what upstream takes as a
flag instead (root directory, node name, node addresses, runtime endpoint) stands beside it in
`KubeletFlags`. Durations in the file are Go durations ("10s"); here they are `timedelta`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tiphys.machinery.time import parse_duration

API_VERSION: Final = "kubelet.config.k8s.io/v1beta1"
KIND: Final = "KubeletConfiguration"

# Initialisms of the document's names, which plain camelCase would get wrong.
_ACRONYMS: Final = {
    "pod_cidr": "podCIDR",
    "cluster_dns": "clusterDNS",
    "tls_cert_file": "tlsCertFile",
    "cpu_cfs_quota": "cpuCFSQuota",
    "cpu_cfs_quota_period": "cpuCFSQuotaPeriod",
    "cgroups_per_qos": "cgroupsPerQOS",
    "client_ca_file": "clientCAFile",
    "image_minimum_gc_age": "imageMinimumGCAge",
    "image_maximum_gc_age": "imageMaximumGCAge",
    "image_gc_high_threshold_percent": "imageGCHighThresholdPercent",
    "image_gc_low_threshold_percent": "imageGCLowThresholdPercent",
    "static_pod_url": "staticPodURL",
    "reserved_system_cpus": "reservedSystemCPUs",
}


class ConfigError(ValueError):
    """The configuration document cannot be used; the message says which field and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeletConfiguration:
    """The fields of the document that this kubelet acts on, with upstream's defaults."""

    static_pod_path: str = ""
    sync_frequency: timedelta = timedelta(minutes=1)
    file_check_frequency: timedelta = timedelta(seconds=20)
    address: str = "0.0.0.0"
    port: int = 10250
    tls_cert_file: str = ""
    tls_private_key_file: str = ""
    client_ca_file: str = ""
    anonymous_auth: bool = False
    webhook_authentication: bool = True
    authorization_mode: str = "Webhook"
    healthz_port: int = 10248
    healthz_bind_address: str = "127.0.0.1"
    cluster_domain: str = "cluster.local"
    cluster_dns: tuple[str, ...] = ()
    node_status_update_frequency: timedelta = timedelta(seconds=10)
    node_status_report_frequency: timedelta = timedelta(minutes=5)
    node_lease_duration_seconds: int = 40
    image_minimum_gc_age: timedelta = timedelta(minutes=2)
    image_maximum_gc_age: timedelta = timedelta(0)
    image_gc_high_threshold_percent: int = 85
    image_gc_low_threshold_percent: int = 80
    cgroup_root: str = "/"
    cgroups_per_qos: bool = True
    max_pods: int = 110
    pod_cidr: str = ""
    pod_pids_limit: int = -1
    resolv_conf: str = "/etc/resolv.conf"
    cpu_cfs_quota: bool = True
    cpu_cfs_quota_period: timedelta = timedelta(milliseconds=100)
    serialize_image_pulls: bool = True
    max_parallel_image_pulls: int = 0
    registry_pull_qps: int = 5
    registry_burst: int = 10
    eviction_hard: dict[str, str] = field(
        default_factory=lambda: {
            "memory.available": "100Mi",
            "nodefs.available": "10%",
            "nodefs.inodesFree": "5%",
            "imagefs.available": "15%",
            "imagefs.inodesFree": "5%",
        }
    )
    eviction_soft: dict[str, str] = field(default_factory=dict)
    eviction_soft_grace_period: dict[str, str] = field(default_factory=dict)
    eviction_pressure_transition_period: timedelta = timedelta(minutes=5)
    eviction_max_pod_grace_period: int = 0
    system_reserved: dict[str, str] = field(default_factory=dict)
    kube_reserved: dict[str, str] = field(default_factory=dict)
    reserved_system_cpus: str = ""
    cpu_manager_policy: str = "none"
    cpu_manager_policy_options: dict[str, str] = field(default_factory=dict)
    cpu_manager_reconcile_period: timedelta = timedelta(seconds=10)
    memory_manager_policy: str = "None"
    reserved_memory: tuple[dict[str, Any], ...] = ()
    topology_manager_policy: str = "none"
    topology_manager_scope: str = "container"
    topology_manager_policy_options: dict[str, str] = field(default_factory=dict)
    container_log_max_size: str = "10Mi"
    container_log_max_files: int = 5
    allowed_unsafe_sysctls: tuple[str, ...] = ()
    enable_debugging_handlers: bool = True
    enable_system_log_handler: bool = True
    register_node: bool = True
    register_with_taints: tuple[dict[str, str], ...] = ()
    pod_logs_dir: str = "/var/log/pods"
    crash_loop_max_period: timedelta = timedelta(minutes=5)
    ids_per_pod: int = 65536
    feature_gates: dict[str, bool] = field(default_factory=dict)

    @staticmethod
    def from_dict(document: dict[str, Any], base: KubeletConfiguration | None = None) -> KubeletConfiguration:
        """The configuration of a decoded document laid over `base`.

        Fields of upstream's document that this kubelet has no use for are accepted and ignored;
        a value of the wrong type raises ConfigError.
        """
        if document.get("kind", KIND) != KIND or document.get("apiVersion", API_VERSION) != API_VERSION:
            raise ConfigError(f"expected kind {KIND} of {API_VERSION}, got {document.get('kind')}")
        flat = dict(document)
        _flatten_authentication(flat)
        base = base or KubeletConfiguration()
        changes: dict[str, Any] = {}
        for item in fields(KubeletConfiguration):
            name = _document_name(item.name)
            if name in flat and flat[name] is not None:
                changes[item.name] = _convert(name, flat[name], getattr(base, item.name))
        return replace(base, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The document again, as /configz shows it."""
        document: dict[str, Any] = {"kind": KIND, "apiVersion": API_VERSION}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, timedelta):
                value = f"{value.total_seconds():g}s"
            document[_document_name(item.name)] = list(value) if isinstance(value, tuple) else value
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeletFlags:
    """What upstream takes from the command line, not from the document."""

    node_name: str
    root_dir: Path = Path("/var/lib/kubelet")
    node_ips: tuple[str, ...] = ()
    node_labels: dict[str, str] = field(default_factory=dict)
    hostname: str = ""
    container_runtime_endpoint: str = "unix:///run/tiphys/tiphys.sock"
    provider_id: str = ""
    # Several nodes on one machine must not sum to more than it has: None means all of the machine.
    capacity: dict[str, str] | None = None
    # (first, how many) users and groups of the machine for pods with their own; None: those of the user `kubelet`.
    subordinate_ids: tuple[int, int] | None = None


def _document_name(name: str) -> str:
    if name in _ACRONYMS:
        return _ACRONYMS[name]
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _flatten_authentication(flat: dict[str, Any]) -> None:
    """Bring the fields of nested blocks (`authentication`, `crashLoopBackOff`, …) to our flat ones."""
    authentication = flat.get("authentication") or {}
    if "enabled" in (authentication.get("anonymous") or {}):
        flat["anonymousAuth"] = authentication["anonymous"]["enabled"]
    if "enabled" in (authentication.get("webhook") or {}):
        flat["webhookAuthentication"] = authentication["webhook"]["enabled"]
    if "clientCAFile" in (authentication.get("x509") or {}):
        flat["clientCAFile"] = authentication["x509"]["clientCAFile"]
    if "mode" in (flat.get("authorization") or {}):
        flat["authorizationMode"] = flat["authorization"]["mode"]
    if "idsPerPod" in (flat.get("userNamespaces") or {}):
        flat["idsPerPod"] = flat["userNamespaces"]["idsPerPod"]
    crash_loop = flat.get("crashLoopBackOff") or {}
    if "maxContainerRestartPeriod" in crash_loop:
        flat["crashLoopMaxPeriod"] = crash_loop["maxContainerRestartPeriod"]


def _convert(name: str, value: Any, like: Any) -> Any:
    """`value` of the document in the type of the default `like`."""
    if isinstance(like, timedelta):
        try:
            return parse_duration(value)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from error
    if isinstance(like, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(like, bool) != isinstance(value, bool) or not isinstance(value, type(like)):
        raise ConfigError(f"{name}: expected {type(like).__name__}, got {value!r}")
    return value
