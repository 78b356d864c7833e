"""The proxy's settings, under the names of KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1).

https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NFTABLES: Final = "nftables"
IPTABLES: Final = "iptables"
MODES: Final = (NFTABLES, IPTABLES)


class ConfigError(ValueError):
    """The configuration cannot be used; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """Intervals in seconds."""

    cluster_cidr: str = ""  # clusterCIDR: sources outside it are masqueraded on their way to a cluster IP
    masquerade_all: bool = False  # nftables.masqueradeAll
    # nodePortAddresses: CIDRs of the node's addresses that answer; empty is "primary", its node IPs.
    node_port_addresses: tuple[str, ...] = ()
    min_sync_period: float = 0.01  # nftables.minSyncPeriod: changes arriving within it go together
    sync_period: float = 30.0  # nftables.syncPeriod: how often others' changes are looked for
    healthz_bind_address: str = "0.0.0.0:10256"
    metrics_bind_address: str = "127.0.0.1:10249"


def check_mode(mode: str) -> str:
    """The mode to use; empty is the default. Raises ConfigError for one that is not there."""
    if not mode:
        return NFTABLES
    if mode in MODES:
        return mode
    if mode == "ipvs":
        raise ConfigError(f'proxy mode "{mode}" is not available; available: {", ".join(MODES)}')
    raise ConfigError(f'unknown proxy mode "{mode}"; available: {", ".join(MODES)}')
