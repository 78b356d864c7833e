"""`tiphys apiserver`: the API server, with kube-apiserver's flag names."""

from __future__ import annotations

import argparse
import asyncio
import errno
import ipaddress
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tiphys.apiserver.bootstrap.reconcile import ClusterFacts, authentication_data, keep, reconcile
from tiphys.apiserver.bootstrap.writer import Writer
from tiphys.apiserver.configfile import ConfigError
from tiphys.apiserver.options import ServerOptions
from tiphys.apiserver.pki import Authority, write_private
from tiphys.apiserver.security import secured_server
from tiphys.apiserver.server import ApiServer
from tiphys.base.log import get_logger
from tiphys.base.notify import notify_ready
from tiphys.base.tasks import Supervised
from tiphys.cmd.access_flags import access_options, add_access_flags
from tiphys.cmd.audit_flags import add_audit_flags, audit_options
from tiphys.cmd.component import add_common_flags, begin_logging, run
from tiphys.cmd.errors import CommandError, UsageError
from tiphys.cmd.flags import FlagParser, duration, key_values
from tiphys.store import DEFAULT_QUOTA, EtcdAccess, StoreError

log = get_logger(__name__)


def _port_range(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    try:
        found = int(low), int(high if dash else low)
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is not a port range') from None
    if not 0 < found[0] <= found[1] < 65536:
        raise argparse.ArgumentTypeError(f'"{text}" is not a port range')
    return found


def _network(text: str) -> str:
    for part in text.split(","):
        try:
            ipaddress.ip_network(part)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return text


def parser() -> FlagParser:
    """kube-apiserver's flags, as far as they have a meaning here."""
    flags = FlagParser("apiserver", "The API server.")
    add_common_flags(flags, kubeconfig=False)
    flags.listing("bind-address", ["127.0.0.1"], "addresses to listen on")
    flags.add_argument("--secure-port", type=int, default=6443, help="port to listen on")
    flags.add_argument("--advertise-address", default="", help="address members of the cluster reach the server at")
    help_text = "where nodes on this machine have their network namespaces, with {node} in it: the way to their pods"
    flags.add_argument("--node-network-namespaces", default="", help=help_text)
    _add_store_flags(flags)
    flags.add_argument("--service-cluster-ip-range", type=_network, default="10.96.0.0/16", help="service addresses")
    flags.add_argument("--service-node-port-range", type=_port_range, default=(30000, 32767), help="node ports")
    for name, help_text in (
        ("cert-dir", "where apiserver.crt and apiserver.key are, or are made, if --tls-cert-file is not given"),
        ("client-ca-file", "authority of client certificates"),
        ("tls-cert-file", "serving certificate"),
        ("tls-private-key-file", "its key"),
        ("kubelet-client-certificate", "certificate shown to kubelets"),
        ("kubelet-client-key", "its key"),
        ("kubelet-certificate-authority", "authority of kubelets' serving certificates"),
        ("service-account-signing-key-file", "private key that signs them"),
        ("requestheader-client-ca-file", "authority of the front proxy"),
        ("proxy-client-cert-file", "certificate the aggregator shows"),
        ("proxy-client-key-file", "its key"),
        ("token-auth-file", "CSV of static tokens"),
        ("cache-directory", "where documents are kept between starts"),
    ):
        flags.add_argument(f"--{name}", type=Path, help=help_text)
    _add_service_account_flags(flags)
    flags.listing("requestheader-allowed-names", ["front-proxy-client"], "common names of the front proxy")
    flags.boolean("anonymous-auth", True, "serve requests without credentials as system:anonymous")
    flags.boolean("enable-bootstrap-token-auth", False, "let bootstrap tokens authenticate")
    flags.boolean("allow-privileged", True, "let pods be privileged")
    flags.listing("authorization-mode", ["Node", "RBAC"], "authorizers, in order")
    flags.listing("enable-admission-plugins", [], "admission plug-ins besides the default ones")
    flags.listing("disable-admission-plugins", [], "admission plug-ins to leave out")
    text = "AdmissionConfiguration: what plug-ins are told"
    flags.add_argument("--admission-control-config-file", type=Path, help=text)
    _add_flow_control_flags(flags)
    add_audit_flags(flags)
    add_access_flags(flags)
    flags.add_argument("--runtime-config", type=key_values, default={}, help="API versions to turn on or off")
    flags.add_argument("--event-ttl", type=duration, default=timedelta(hours=1), help="how long events are kept")
    return flags


def _add_store_flags(flags: FlagParser) -> None:
    """Where the state is."""
    where = "sqlite:DIRECTORY, memory, or the URLs of etcd's members, with commas; --etcd-servers says the latter too"
    flags.add_argument("--datastore", help=where)
    flags.listing("etcd-servers", [], "URLs of etcd's members: http(s)://HOST:PORT")
    for name, help_text in (
        ("etcd-cafile", "authority of the members' certificates"),
        ("etcd-certfile", "certificate shown to them"),
        ("etcd-keyfile", "its key"),
    ):
        flags.add_argument(f"--{name}", type=Path, help=help_text)
    flags.add_argument("--etcd-prefix", default="/registry", help="what every key in etcd begins with")
    flags.add_argument("--encryption-provider-config", type=Path, help="EncryptionConfiguration: what is sealed, how")
    flags.boolean("encryption-provider-config-automatic-reload", False, "read it again when it changes")
    text = "bytes the embedded store may take before it refuses writes, with the alarm NOSPACE (2 GiB)"
    flags.add_argument("--quota-backend-bytes", type=int, default=0, help=text)
    compaction = timedelta(minutes=5)
    flags.add_argument(
        "--etcd-compaction-interval", type=duration, default=compaction, help="how long revisions are kept"
    )


ISSUER: Final = "https://kubernetes.default.svc.cluster.local"


def _add_service_account_flags(flags: FlagParser) -> None:
    text = "issuer of tokens; may be repeated: the first signs, all are accepted"
    flags.add_argument("--service-account-issuer", action="append", default=[], help=text)
    text = "keys that tokens of service accounts are checked with; may be repeated"
    flags.add_argument("--service-account-key-file", action="append", default=[], type=Path, help=text)
    flags.listing("api-audiences", [], "whom tokens for this server are for; by default the issuer")
    text = "longest life of a token that is asked for"
    flags.add_argument("--service-account-max-token-expiration", type=duration, default=timedelta(0), help=text)
    text = "let tokens of pods live longer than they say, for clients that do not renew them"
    flags.boolean("service-account-extend-token-expiration", True, text)


def _add_flow_control_flags(flags: FlagParser) -> None:
    flags.boolean("enable-priority-and-fairness", True, "queue requests by flow schemas and priority levels")
    text = "with --max-mutating-requests-inflight the seats of the server; without fairness, reads served at once"
    flags.add_argument("--max-requests-inflight", type=int, default=400, help=text)
    text = "with --max-requests-inflight the seats of the server; without fairness, writes served at once"
    flags.add_argument("--max-mutating-requests-inflight", type=int, default=200, help=text)


def options_of(found: Any, arguments: Sequence[str] = ()) -> ServerOptions:
    """The flags as the server's options; `arguments` tell which of them were given. Raises ValueError."""
    if found.encryption_provider_config_automatic_reload and found.encryption_provider_config is None:
        raise ConfigError("--encryption-provider-config-automatic-reload must be set with --encryption-provider-config")
    return ServerOptions(
        store=found.datastore or ",".join(found.etcd_servers) or "memory",
        etcd=EtcdAccess(
            ca=found.etcd_cafile,
            certificate=found.etcd_certfile,
            key=found.etcd_keyfile,
            prefix=found.etcd_prefix,
        ),
        quota=found.quota_backend_bytes or DEFAULT_QUOTA,
        encryption_config=found.encryption_provider_config,
        encryption_config_reload=found.encryption_provider_config_automatic_reload,
        bind_addresses=tuple(found.bind_address),
        port=found.secure_port,
        advertise_address=found.advertise_address,
        tls_certificate=found.tls_cert_file,
        tls_key=found.tls_private_key_file,
        client_ca=found.client_ca_file,
        kubelet_client_certificate=found.kubelet_client_certificate,
        kubelet_client_key=found.kubelet_client_key,
        kubelet_ca=found.kubelet_certificate_authority,
        node_network_namespaces=found.node_network_namespaces,
        service_account_issuer=(found.service_account_issuer or [ISSUER])[0],
        service_account_issuers=tuple(found.service_account_issuer[1:]),
        service_account_keys=tuple(found.service_account_key_file),
        api_audiences=tuple(found.api_audiences),
        max_token_seconds=int(found.service_account_max_token_expiration.total_seconds()),
        extend_tokens=found.service_account_extend_token_expiration,
        service_account_key=found.service_account_signing_key_file,
        token_file=found.token_auth_file,
        anonymous=found.anonymous_auth,
        bootstrap_tokens=found.enable_bootstrap_token_auth,
        authorization_modes=tuple(found.authorization_mode),
        requestheader_ca=found.requestheader_client_ca_file,
        requestheader_names=tuple(found.requestheader_allowed_names),
        proxy_client_certificate=found.proxy_client_cert_file,
        proxy_client_key=found.proxy_client_key_file,
        service_cidr=found.service_cluster_ip_range,
        node_port_range=found.service_node_port_range,
        access=access_options(found, arguments),
        audit=audit_options(found),
        priority_and_fairness=found.enable_priority_and_fairness,
        max_requests_in_flight=found.max_requests_inflight,
        max_mutating_requests_in_flight=found.max_mutating_requests_inflight,
        runtime_config={key: value.lower() != "false" for key, value in found.runtime_config.items()},
        enable_admission=tuple(found.enable_admission_plugins),
        disable_admission=tuple(found.disable_admission_plugins),
        admission_configuration=found.admission_control_config_file,
        cache_directory=found.cache_directory,
        event_ttl_seconds=int(found.event_ttl.total_seconds()),
        compaction_interval_seconds=int(found.etcd_compaction_interval.total_seconds()),
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command until it is ended."""
    found = parser().parse(arguments)
    begin_logging(found.verbosity)
    try:
        if found.cert_dir and not found.tls_cert_file:
            found.tls_cert_file, found.tls_private_key_file = self_signed(found.cert_dir, found.bind_address)
        options = options_of(found, arguments)
        server = secured_server(options)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error

    async def work() -> None:
        try:
            writer = await start(server)
            host, port = server.addresses[0]
            notify_ready(address=host, port=port)
            async with Supervised(server.clock) as tasks:
                facts = cluster_facts(options, port)
                tasks.spawn(lambda: keep(writer, facts, server.clock), name="kubernetes-service", restart=True)
                await asyncio.get_running_loop().create_future()
        finally:
            await server.stop()

    return run(work)


async def start(server: ApiServer) -> Writer:
    """Load, make the objects every cluster has, listen; returns what writes such objects.

    Raises CommandError with one line when it cannot.
    """
    options = server.options
    try:
        server.bind()
        await server.load()
        writer = Writer(server.resources, server.reader, server.clock.now)
        await reconcile(writer, cluster_facts(options, server.addresses[0][1]), server.clock.now)
        await server.listen()
        return writer
    except ConfigError as error:
        raise CommandError(str(error)) from error
    except StoreError as error:
        raise CommandError(f"the store cannot be used: {error}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            where = f"{', '.join(options.bind_addresses)} port {options.port}"
            raise CommandError(f"{where} is in use by another process") from error
        raise CommandError(f"cannot serve: {error}") from error


def self_signed(directory: Path, addresses: Sequence[str]) -> tuple[Path, Path]:
    """(certificate, key) in `directory`: those that are there, else new ones for this machine, signed by an authority
    that nobody keeps; the certificate's file has the authority's behind it, so that clients can be told to trust it."""
    certificate, key = directory / "apiserver.crt", directory / "apiserver.key"
    if not (certificate.exists() and key.exists()):
        authority = Authority.create(f"{socket.gethostname()}-ca@{int(time.time())}")
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", *addresses, "127.0.0.1"]
        pair = authority.server(socket.gethostname(), dict.fromkeys(names))
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        write_private(key, pair.key)
        write_private(certificate, pair.certificate + authority.pem, 0o644)
    return certificate, key


def cluster_facts(options: ServerOptions, port: int) -> ClusterFacts:
    """What of the options goes into the objects every cluster has; `port` is the one the server is bound to."""
    first = ipaddress.ip_network(options.service_cidr.split(",")[0])[1]
    return ClusterFacts(
        service_cidr=options.service_cidr,
        service_address=str(first),
        advertise_address=advertised([options.advertise_address, *options.bind_addresses]),
        port=port,
        authentication=authentication_data(options),
    )


def advertised(addresses: Sequence[str]) -> str:
    """The address the kubernetes Service leads to: the first that others could reach, as upstream chooses it.

    A server that listens on the loopback only names the machine's own address: endpoints may not be in the
    loopback range, and there are no nodes that could use it.
    """
    for address in filter(None, addresses):
        found = ipaddress.ip_address(address)
        if not found.is_loopback and not found.is_unspecified:
            return address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent; the kernel only chooses the source address
            chosen = str(probe.getsockname()[0])
        except OSError:
            chosen = ""
    # Without any network there is still a cluster: an address reserved for documentation stands in.
    return chosen if chosen and not ipaddress.ip_address(chosen).is_loopback else "192.0.2.1"
