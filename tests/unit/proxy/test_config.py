"""KubeProxyConfiguration: what it says goes before the flags, what it leaves out stays, nonsense is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiphys.proxy.config import ConfigError, IpvsSettings, ProxyConfig, check_mode, overlay, read_document
from tiphys.proxy.conntrack_settings import ConntrackSettings, write

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
FLAGS = ProxyConfig(cluster_cidr="10.244.0.0/16", masquerade_all=False)


def test_kubeadms_document_changes_only_what_it_says() -> None:
    text = (
        HEAD + 'mode: ""\nclusterCIDR: ""\nhostnameOverride: ""\nnodePortAddresses: null\niptables:\n  syncPeriod: 0s\n'
    )
    assert overlay("nftables", FLAGS, read_document(text)) == ("nftables", FLAGS)


def test_what_it_says_goes_first() -> None:
    text = HEAD + (
        "mode: iptables\nclusterCIDR: 10.0.0.0/8\nnodePortAddresses: [192.168.0.0/16]\n"
        "iptables: {masqueradeAll: true, syncPeriod: 1m, minSyncPeriod: 1s}\nnftables: {syncPeriod: 5s}\n"
    )
    mode, config = overlay("nftables", FLAGS, read_document(text))
    assert mode == "iptables"
    assert (config.cluster_cidr, config.node_port_addresses) == ("10.0.0.0/8", ("192.168.0.0/16",))
    assert (config.masquerade_all, config.sync_period, config.min_sync_period) == (True, 60.0, 1.0)
    assert config.healthz_bind_address == FLAGS.healthz_bind_address


def test_conntrack_settings_may_be_zero() -> None:
    text = (
        HEAD + "conntrack: {tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 30m, udpTimeout: 10s, tcpBeLiberal: true}\n"
    )
    _, config = overlay("nftables", FLAGS, read_document(text))
    assert config.conntrack.sysctls() == {
        "nf_conntrack_tcp_timeout_close_wait": 1800,
        "nf_conntrack_tcp_be_liberal": 1,
        "nf_conntrack_udp_timeout": 10,
    }
    assert FLAGS.conntrack.sysctls() == {
        "nf_conntrack_tcp_timeout_established": 86400,
        "nf_conntrack_tcp_timeout_close_wait": 3600,
    }


def test_conntrack_settings_are_written_where_the_kernel_takes_them(tmp_path: Path) -> None:
    (tmp_path / "nf_conntrack_tcp_timeout_close_wait").write_text("60\n")
    write(ConntrackSettings(), tmp_path)  # the other sysctl is not there: reported, and no failure
    assert (tmp_path / "nf_conntrack_tcp_timeout_close_wait").read_text() == "3600"


def test_mode_ipvs_has_its_own_settings_and_masquerades_as_mode_iptables_does() -> None:
    text = HEAD + (
        "mode: ipvs\n"
        "ipvs: {scheduler: lc, strictARP: true, excludeCIDRs: [10.9.0.0/16], tcpTimeout: 15m, udpTimeout: 5m}\n"
        "iptables: {masqueradeAll: true}\n"
    )
    mode, config = overlay("nftables", FLAGS, read_document(text))
    assert (mode, config.masquerade_all) == ("ipvs", True)
    assert config.ipvs == IpvsSettings(
        scheduler="lc", strict_arp=True, exclude_cidrs=("10.9.0.0/16",), tcp_timeout=900.0, udp_timeout=300.0
    )
    assert config.ipvs.timeouts() == {"tcp": 900, "tcp_fin": 0, "udp": 300}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: [", "KubeProxyConfiguration: while parsing", id="no YAML"),
        pytest.param("kind: Pod\n", "are of something else", id="another kind"),
        pytest.param(HEAD + "mode: ipvs\nipvs: {scheduler: best}\n", 'unknown IPVS scheduler "best"', id="scheduler"),
        pytest.param(HEAD + "mode: ipvs\nipvs: {excludeCIDRs: [x]}\n", "excludeCIDRs: 'x'", id="CIDR"),
        pytest.param(HEAD + "mode: userspace\n", 'unknown proxy mode "userspace"', id="no mode"),
        pytest.param(HEAD + "mode: 5\n", "mode: not a string", id="number"),
        pytest.param(HEAD + "nftables: {syncPeriod: often}\n", "syncPeriod: ", id="duration"),
    ],
)
def test_nonsense_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        overlay("nftables", FLAGS, read_document(text))


def test_modes() -> None:
    assert [check_mode(each) for each in ("", "iptables", "ipvs")] == ["nftables", "iptables", "ipvs"]
