"""The proxy's settings, under the names of KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1).

https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

import yaml

from tiphys.machinery.time import parse_duration
from tiphys.proxy.conntrack_settings import ConntrackSettings

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
    conntrack: ConntrackSettings = field(default_factory=ConntrackSettings)


def check_mode(mode: str) -> str:
    """The mode to use; empty is the default. Raises ConfigError for one that is not there."""
    if not mode:
        return NFTABLES
    if mode in MODES:
        return mode
    if mode == "ipvs":
        raise ConfigError(f'proxy mode "{mode}" is not available; available: {", ".join(MODES)}')
    raise ConfigError(f'unknown proxy mode "{mode}"; available: {", ".join(MODES)}')


def read_document(text: str) -> Mapping[str, Any]:
    """A KubeProxyConfiguration as YAML or JSON. Raises ConfigError when it is none."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"KubeProxyConfiguration: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ConfigError("KubeProxyConfiguration: not an object")
    kind = (document.get("apiVersion"), document.get("kind"))
    if kind != ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration"):
        raise ConfigError(f"KubeProxyConfiguration: apiVersion {kind[0]!r} and kind {kind[1]!r} are of something else")
    return document


def overlay(mode: str, config: ProxyConfig, document: Mapping[str, Any]) -> tuple[str, ProxyConfig]:
    """The mode and settings with what a KubeProxyConfiguration says in place of the flags'.

    What it leaves out or empty stays. Raises ConfigError naming the field that cannot be used.
    """
    mode = check_mode(_text(document, "mode") or mode)
    own = _object(document, mode)
    changes: dict[str, Any] = {
        "cluster_cidr": _text(document, "clusterCIDR"),
        "node_port_addresses": tuple(document.get("nodePortAddresses") or ()),
        "healthz_bind_address": _text(document, "healthzBindAddress"),
        "metrics_bind_address": _text(document, "metricsBindAddress"),
        "masquerade_all": bool(own.get("masqueradeAll")),
        "min_sync_period": _seconds(own, "minSyncPeriod"),
        "sync_period": _seconds(own, "syncPeriod"),
        "conntrack": _conntrack(config.conntrack, _object(document, "conntrack")),
    }
    return mode, replace(config, **{name: value for name, value in changes.items() if value})


def _conntrack(settings: ConntrackSettings, document: Mapping[str, Any]) -> ConntrackSettings:
    """Unlike elsewhere, a zero here is a word: leave the kernel's value."""
    names = {
        "tcpEstablishedTimeout": "tcp_established",
        "tcpCloseWaitTimeout": "tcp_close_wait",
        "udpTimeout": "udp",
        "udpStreamTimeout": "udp_stream",
    }
    given = {ours: _seconds(document, name) for name, ours in names.items() if document.get(name) is not None}
    return replace(settings, tcp_be_liberal=bool(document.get("tcpBeLiberal", settings.tcp_be_liberal)), **given)


def _object(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name) or {}
    if not isinstance(found, dict):
        raise ConfigError(f"KubeProxyConfiguration: {name}: not an object")
    return found


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name) or ""
    if not isinstance(value, str):
        raise ConfigError(f"KubeProxyConfiguration: {name}: not a string: {value!r}")
    return value


def _seconds(values: Mapping[str, Any], name: str) -> float:
    """A duration as "30s"; 0 where there is none."""
    text = _text(values, name)
    try:
        found: timedelta = parse_duration(text or "0s")
    except ValueError as error:
        raise ConfigError(f"KubeProxyConfiguration: {name}: {error}") from None
    return found.total_seconds()
