"""What a controller is built from, and the options of the whole manager."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

import tiphys
from tiphys.api.admissionregistration.v1 import ValidatingAdmissionPolicy
from tiphys.base.clock import Clock
from tiphys.client import Client, EventRecorder, Informers
from tiphys.controllers.cloud.provider import NO_PROVIDER, CloudProvider

# Workers of controllers with thousands of objects. A worker that waits for the API costs next to nothing, and with few
# of them a crowd of small objects stands behind some large ones.
MANY_WORKERS: Final = 16


class PolicyTypeChecker(Protocol):
    """Knows the expressions' language, which is the API server's; whoever starts the manager hands it in."""

    def warnings(self, policy: ValidatingAdmissionPolicy) -> Sequence[tuple[str, str]]:
        """Place and text of each problem of a policy's expressions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """kube-controller-manager's flags of consequence; defaults as upstream's.

    `cluster_cidrs` empty leaves node addresses alone (`--allocate-node-cidrs=false`). PEM texts are
    bytes; empty switches off what needs them.
    """

    node_monitor_grace_period: timedelta = timedelta(seconds=40)
    node_monitor_period: timedelta = timedelta(seconds=5)
    node_startup_grace_period: timedelta = timedelta(seconds=60)
    node_eviction_rate: float = 0.1  # nodes a second
    secondary_node_eviction_rate: float = 0.01
    unhealthy_zone_threshold: float = 0.55
    large_cluster_size_threshold: int = 50
    cluster_cidrs: tuple[str, ...] = ()
    service_cluster_ip_range: str = ""
    node_cidr_mask_size_ipv4: int = 24
    node_cidr_mask_size_ipv6: int = 64
    terminated_pod_gc_threshold: int = 12500
    root_ca: bytes = b""
    service_account_key: bytes = field(default=b"", repr=False)
    cluster_signing_cert: bytes = b""
    cluster_signing_key: bytes = field(default=b"", repr=False)
    cluster_signing_duration: timedelta = timedelta(days=365)
    max_endpoints_per_slice: int = 100
    enable_garbage_collector: bool = True
    resource_quota_sync_period: timedelta = timedelta(minutes=5)
    hpa_sync_period: timedelta = timedelta(seconds=15)
    hpa_tolerance: float = 0.1
    hpa_downscale_stabilization: timedelta = timedelta(minutes=5)
    hpa_cpu_initialization_period: timedelta = timedelta(minutes=5)
    hpa_initial_readiness_delay: timedelta = timedelta(seconds=30)
    legacy_service_account_token_clean_up_period: timedelta = timedelta(days=365)
    cloud_provider: CloudProvider = NO_PROVIDER
    policy_type_checker: PolicyTypeChecker | None = None
    # Where the volumes of class local-path are on each node; `{node}` stands for the node's name.
    local_path_directory: str = "/opt/local-path-provisioner"
    local_path_helper_image: str = f"tiphys.local/system:{tiphys.__version__}"  # any with python3


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerContext:
    """Handed to every controller's constructor."""

    client: Client
    clock: Clock
    informers: Informers
    recorder: Callable[[str], EventRecorder]
    options: Options = Options()
