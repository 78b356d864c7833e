"""What an API server can be told: plain values, set by `cmd/apiserver.py` from upstream's flags, or by tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tiphys.apiserver.access_options import AccessOptions
from tiphys.apiserver.audit.options import AuditOptions
from tiphys.store import DEFAULT_QUOTA, EtcdAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Options of one API server. Paths are PEM files; None means the feature is off."""

    # A state directory or the URLs of etcd's members (see `tiphys.store.open_store`); "memory" keeps nothing.
    store: str | Path = "memory"
    etcd: EtcdAccess = field(default_factory=EtcdAccess)
    quota: int = DEFAULT_QUOTA  # bytes; of stores that are not etcd's
    # EncryptionConfiguration: what is sealed in the store, and whether it is read again when it changes.
    encryption_config: Path | None = None
    encryption_config_reload: bool = False
    # Addresses to listen on; port 0 takes any free one, the same for all addresses.
    bind_addresses: tuple[str, ...] = ("127.0.0.1",)
    port: int = 6443
    advertise_address: str = ""  # "" is the first bind address
    # TLS. Without a certificate the server speaks plain HTTP (tests only).
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    # The identity shown to kubelets, and the CA their serving certificates are checked against.
    kubelet_client_certificate: Path | None = None
    kubelet_client_key: Path | None = None
    kubelet_ca: Path | None = None
    kubelet_port: int = 10250
    # Path of a node's network namespace with "{node}" in it: pods are then reached from there. "": from here.
    node_network_namespaces: str = ""
    # Service accounts.
    service_account_issuer: str = "https://kubernetes.default.svc.cluster.local"
    service_account_key: Path | None = None  # private key that signs
    # Further keys that tokens may be signed with, and issuers they may name: those before a rotation, and after it.
    service_account_keys: tuple[Path, ...] = ()
    service_account_issuers: tuple[str, ...] = ()
    api_audiences: tuple[str, ...] = ()  # whom tokens for the API server are for; none: the issuer
    max_token_seconds: int = 0  # longest life of a token that is asked for; 0: any
    extend_tokens: bool = True  # tokens of pods live longer than they say, for clients that do not renew them
    # Authentication and authorization.
    access: AccessOptions = field(default_factory=AccessOptions)
    token_file: Path | None = None
    anonymous: bool = True
    bootstrap_tokens: bool = True
    authorization_modes: tuple[str, ...] = ("Node", "RBAC")
    requestheader_ca: Path | None = None
    requestheader_names: tuple[str, ...] = ("front-proxy-client",)
    # The identity the aggregator shows to extension servers.
    proxy_client_certificate: Path | None = None
    proxy_client_key: Path | None = None
    # The cluster.
    service_cidr: str = "10.96.0.0/16"
    node_port_range: tuple[int, int] = (30000, 32767)
    cluster_domain: str = "cluster.local"
    # "GROUP/VERSION" or "api/beta", "api/alpha" to true or false, as --runtime-config.
    runtime_config: dict[str, bool] = field(default_factory=dict)
    enable_admission: tuple[str, ...] = ()
    disable_admission: tuple[str, ...] = ()
    admission_configuration: Path | None = None
    # Where OpenAPI documents are kept between starts; None: in memory only.
    cache_directory: Path | None = None
    audit: AuditOptions = field(default_factory=AuditOptions)
    # Flow control. Without fairness the limits are per kind of request; 0 is no limit then.
    priority_and_fairness: bool = True
    max_requests_in_flight: int = 400
    max_mutating_requests_in_flight: int = 200
    max_body_bytes: int = 3 * 1024 * 1024
    event_ttl_seconds: int = 3600
    # The store forgets revisions older than this; 0 keeps them all.
    compaction_interval_seconds: int = 300
