"""The proxy's settings, under the names of KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1).

https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

import yaml

from tiphys.machinery.time import parse_duration
from tiphys.proxy.conntrack_settings import ConntrackSettings

NFTABLES: Final = "nftables"
IPTABLES: Final = "iptables"
IPVS: Final = "ipvs"
MODES: Final = (NFTABLES, IPTABLES, IPVS)
# https://kubernetes.io/docs/reference/networking/virtual-ips/#proxy-mode-ipvs
SCHEDULERS: Final = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh")


class ConfigError(ValueError):
    """The configuration cannot be used; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IpvsSettings:
    """`ipvs` of KubeProxyConfiguration. Seconds; 0 leaves the kernel's value as it is."""

    scheduler: str = "rr"
    strict_arp: bool = False  # strictARP: answer ARP only for addresses of the interface that was asked
    exclude_cidrs: tuple[str, ...] = ()  # excludeCIDRs: virtual servers there are somebody else's
    tcp_timeout: float = 0.0  # tcpTimeout: idle connections
    tcp_fin_timeout: float = 0.0  # tcpFinTimeout: after a FIN
    udp_timeout: float = 0.0  # udpTimeout

    def timeouts(self) -> dict[str, int]:
        return {"tcp": int(self.tcp_timeout), "tcp_fin": int(self.tcp_fin_timeout), "udp": int(self.udp_timeout)}


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
    ipvs: IpvsSettings = field(default_factory=IpvsSettings)


def check_mode(mode: str) -> str:
    """The mode to use; empty is the default. Raises ConfigError for one that is not there."""
    if not mode:
        return NFTABLES
    if mode in MODES:
        return mode
    raise ConfigError(f'unknown proxy mode "{mode}"; available: {", ".join(MODES)}')


def check_ipvs(settings: IpvsSettings) -> IpvsSettings:
    """The settings themselves. Raises ConfigError naming what cannot be used."""
    if settings.scheduler not in SCHEDULERS:
        raise ConfigError(f'unknown IPVS scheduler "{settings.scheduler}"; known: {", ".join(SCHEDULERS)}')
    for cidr in settings.exclude_cidrs:
        try:
            ipaddress.ip_network(cidr, strict=False)
        except ValueError as error:
            raise ConfigError(f"excludeCIDRs: {error}") from None
    return settings


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
        # Mode ipvs has no such field of its own.
        "masquerade_all": bool((_object(document, IPTABLES) if mode == IPVS else own).get("masqueradeAll")),
        "min_sync_period": _seconds(own, "minSyncPeriod"),
        "sync_period": _seconds(own, "syncPeriod"),
        "conntrack": _conntrack(config.conntrack, _object(document, "conntrack")),
        "ipvs": _ipvs(config.ipvs, _object(document, IPVS)),
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


def _ipvs(settings: IpvsSettings, document: Mapping[str, Any]) -> IpvsSettings:
    changes: dict[str, Any] = {
        "scheduler": _text(document, "scheduler"),
        "strict_arp": bool(document.get("strictARP")),
        "exclude_cidrs": tuple(document.get("excludeCIDRs") or ()),
        "tcp_timeout": _seconds(document, "tcpTimeout"),
        "tcp_fin_timeout": _seconds(document, "tcpFinTimeout"),
        "udp_timeout": _seconds(document, "udpTimeout"),
    }
    return check_ipvs(replace(settings, **{name: value for name, value in changes.items() if value}))


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
