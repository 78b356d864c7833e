"""`tiphys proxy`: services on one node, with kube-proxy's flag names. Runs in the node's network namespace."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from tiphys.api.core.v1 import ConfigMap, ObjectReference
from tiphys.base.clock import SystemClock
from tiphys.base.log import get_logger
from tiphys.base.notify import notify_ready
from tiphys.base.tasks import Supervised
from tiphys.client import Client, EventRecorder, Informers
from tiphys.cmd.component import add_common_flags, begin_logging, connect, run
from tiphys.cmd.errors import CommandError, UsageError
from tiphys.cmd.flags import FlagParser, duration
from tiphys.machinery.errors import ForbiddenError, NotFoundError
from tiphys.machinery.meta import ObjectName
from tiphys.proxy.config import (
    IPVS,
    ConfigError,
    IpvsSettings,
    ProxyConfig,
    check_ipvs,
    check_mode,
    overlay,
    read_document,
)
from tiphys.proxy.conntrack_settings import ConntrackSettings
from tiphys.proxy.ipvs.kernel import MISSING, is_available
from tiphys.proxy.proxier import Proxy

log = get_logger(__name__)

CONFIG_MAP: Final = ObjectName("kube-system", "kube-proxy")
CONFIG_KEY: Final = "config.conf"
IPVS_DEPRECATED: Final = (
    "The ipvs proxier is now deprecated and may be removed in a future release. Please use 'nftables' instead."
)


def main(arguments: Sequence[str]) -> int:
    """Run the command until it is ended."""
    flags = FlagParser("proxy", "Services on a node.")
    add_common_flags(flags)
    flags.add_argument("--hostname-override", required=True, help="name of the node")
    flags.add_argument("--proxy-mode", default="nftables", help="nftables, iptables or ipvs")
    flags.add_argument("--cluster-cidr", default="10.244.0.0/16", help="range of pod addresses")
    flags.boolean("masquerade-all", False, "masquerade everything sent to a service")
    flags.listing("nodeport-addresses", [], "node addresses that answer on node ports; none: the primary ones")
    flags.add_argument("--healthz-bind-address", default="0.0.0.0:10256", help="health server")
    flags.add_argument("--metrics-bind-address", default="127.0.0.1:10249", help="metrics server")
    established, close_wait = timedelta(hours=24), timedelta(hours=1)
    flags.add_argument(
        "--conntrack-tcp-timeout-established", type=duration, default=established, help="life of silent connections"
    )
    flags.add_argument(
        "--conntrack-tcp-timeout-close-wait", type=duration, default=close_wait, help="life of half-closed ones"
    )
    _add_ipvs_flags(flags)
    options = flags.parse(arguments)
    begin_logging(options.verbosity)
    try:
        check_mode(options.proxy_mode)
        ipvs = check_ipvs(_ipvs_settings(options))
    except ConfigError as error:
        raise UsageError(str(error)) from error
    config = ProxyConfig(
        cluster_cidr=options.cluster_cidr,
        masquerade_all=options.masquerade_all,
        node_port_addresses=tuple(options.nodeport_addresses),
        healthz_bind_address=options.healthz_bind_address,
        metrics_bind_address=options.metrics_bind_address,
        conntrack=ConntrackSettings(
            tcp_established=options.conntrack_tcp_timeout_established.total_seconds(),
            tcp_close_wait=options.conntrack_tcp_timeout_close_wait.total_seconds(),
        ),
        ipvs=ipvs,
    )

    async def work() -> None:
        async with connect(options.kubeconfig, "kube-proxy") as client, Supervised() as tasks:
            mode, settings = await _configured(client, options.proxy_mode, config)
            if mode == IPVS:
                if not is_available():
                    raise CommandError(MISSING)
                recorder = EventRecorder(client, SystemClock(), "kube-proxy", options.hostname_override)
                tasks.spawn(recorder.run, name="events")
                _warn_of_ipvs(recorder, options.hostname_override)
            informers = Informers(client)
            proxy = Proxy(client, informers, options.hostname_override, mode, settings)
            tasks.spawn(proxy.run, name="proxy")
            tasks.spawn(informers.run, name="informers")
            await proxy.ready.wait()
            notify_ready()
            await tasks.wait()

    return run(work)


def _warn_of_ipvs(recorder: EventRecorder, node: str) -> None:
    """As kube-proxy does since v1.35 (KEP-5495)."""
    log.warning("%s", IPVS_DEPRECATED)
    place = ObjectReference(kind="Node", name=node, uid=node)
    recorder.event(place, "Warning", "IPVSDeprecation", IPVS_DEPRECATED)


def _add_ipvs_flags(flags: FlagParser) -> None:
    flags.add_argument("--ipvs-scheduler", default="rr", help="how mode ipvs chooses an endpoint")
    flags.boolean("ipvs-strict-arp", False, "in mode ipvs, answer ARP only for addresses of the interface asked")
    flags.listing("ipvs-exclude-cidrs", [], "virtual servers there are left alone by mode ipvs")
    for name, text in (("tcp", "idle connections"), ("tcpfin", "connections after a FIN"), ("udp", "UDP clients")):
        flags.add_argument(f"--ipvs-{name}-timeout", type=duration, default=timedelta(0), help=f"life of {text}")


def _ipvs_settings(options: Namespace) -> IpvsSettings:
    return IpvsSettings(
        scheduler=options.ipvs_scheduler or "rr",
        strict_arp=options.ipvs_strict_arp,
        exclude_cidrs=tuple(options.ipvs_exclude_cidrs),
        tcp_timeout=options.ipvs_tcp_timeout.total_seconds(),
        tcp_fin_timeout=options.ipvs_tcpfin_timeout.total_seconds(),
        udp_timeout=options.ipvs_udp_timeout.total_seconds(),
    )


async def _configured(client: Client, mode: str, config: ProxyConfig) -> tuple[str, ProxyConfig]:
    """The settings with those of the ConfigMap kube-proxy in kube-system, where there is one, as kubeadm keeps them."""
    try:
        found = await client.get(ConfigMap, CONFIG_MAP)
    except (NotFoundError, ForbiddenError):
        return mode, config
    text = found.data.get(CONFIG_KEY, "")
    if not text:
        return mode, config
    try:
        return overlay(mode, config, read_document(text))
    except ConfigError as error:
        raise CommandError(f"ConfigMap {CONFIG_MAP}: {error}") from error
