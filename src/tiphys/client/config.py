"""How to reach an API server and who to be there: what a kubeconfig, or a pod's service account, says.

`RestConfig` is a value; nothing is opened until a `Client` uses it. Tokens in files and from exec
plugins expire, so they are asked for through `TokenSource` at every request, which re-reads at most
once a minute. https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tiphys.base.clock import Clock, SystemClock
from tiphys.base.tls import client_context
from tiphys.client import kubeconfig as kubeconfig_file
from tiphys.client.execplugin import ExecPlugin

SERVICE_ACCOUNT_DIR: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Kubelets refresh a projected token well before it expires; upstream clients re-read it this often.
TOKEN_REREAD_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestConfig:
    """Where the API server is, how it is trusted, and the client's identity.

    `server` is a URL. Certificates are PEM bytes; `tls_server_name` replaces the host of the URL in
    the check of the server's certificate. At most one of the token sources is used, in the order
    `token`, `token_file`, `exec_plugin`. `namespace` is the kubeconfig context's default.
    """

    server: str
    ca_data: bytes = b""
    cert_data: bytes = b""
    key_data: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    token_file: str = ""
    insecure: bool = False
    tls_server_name: str = ""
    namespace: str = "default"
    impersonate_user: str = ""
    impersonate_groups: tuple[str, ...] = ()
    exec_plugin: ExecPlugin | None = None

    @classmethod
    def from_kubeconfig(cls, path: str | Path, context: str = "") -> RestConfig:
        """Read `path`; `context` empty means its current-context. Raises ValueError naming what is wrong."""
        base = Path(path).resolve().parent
        chosen = kubeconfig_file.select(kubeconfig_file.load(path), context)
        cluster, user = chosen.cluster, chosen.user
        server = cluster.get("server")
        if not server:
            raise ValueError(f"kubeconfig {path}: cluster {chosen.cluster_name!r} has no server")
        token_file = user.get("tokenFile", "")
        plugin = user.get("exec")
        return cls(
            server=str(server).rstrip("/"),
            ca_data=kubeconfig_file.data_or_file(cluster, "certificate-authority", base),
            cert_data=kubeconfig_file.data_or_file(user, "client-certificate", base),
            key_data=kubeconfig_file.data_or_file(user, "client-key", base),
            token=user.get("token", ""),
            token_file=str(base / token_file) if token_file else "",
            insecure=bool(cluster.get("insecure-skip-tls-verify", False)),
            tls_server_name=cluster.get("tls-server-name", ""),
            namespace=chosen.namespace or "default",
            impersonate_user=user.get("as", ""),
            impersonate_groups=tuple(user.get("as-groups") or ()),
            exec_plugin=ExecPlugin.from_dict(plugin) if plugin else None,
        )

    @classmethod
    def in_cluster(cls, directory: Path = SERVICE_ACCOUNT_DIR) -> RestConfig:
        """The configuration of a pod: its service account and the `kubernetes` Service.

        Raises ValueError outside a pod.
        """
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise ValueError(
                "unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT "
                "must be defined"
            )
        host = f"[{host}]" if ":" in host else host
        namespace = directory / "namespace"
        return cls(
            server=f"https://{host}:{port}",
            ca_data=(directory / "ca.crt").read_bytes(),
            token_file=str(directory / "token"),
            namespace=namespace.read_text().strip() if namespace.exists() else "default",
        )

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS settings of a connection; None for a plain http server."""
        if not self.server.startswith("https:"):
            return None
        context = client_context(authorities=self.ca_data.decode())
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert_data:
            _load_cert_chain(context, self.cert_data, self.key_data)
        return context


class TokenSource:
    """The bearer token of a configuration, as it is now."""

    def __init__(self, config: RestConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._token = config.token
        self._read_at: float | None = None

    async def token(self) -> str:
        """The token to send, or "" when the configuration has none."""
        config = self._config
        if config.token:
            return config.token
        if config.token_file:
            now = self._clock.monotonic()
            if self._read_at is None or now - self._read_at >= TOKEN_REREAD_SECONDS:
                self._token = _read_token(config.token_file)
                self._read_at = now
            return self._token
        if config.exec_plugin is not None:
            return await config.exec_plugin.token(self._clock.now())
        return ""

    def forget(self) -> None:
        """The server refused the token: read it again before its time."""
        self._read_at = None
        if self._config.exec_plugin is not None:
            self._config.exec_plugin.forget()


def _read_token(path: str) -> str:
    # A few hundred bytes from a memory file system; not worth a thread.
    return Path(path).read_text().strip()


def _load_cert_chain(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Give `context` a client certificate held in memory; the ssl module reads only files."""
    with tempfile.TemporaryDirectory(prefix="tiphys-") as directory:
        path = Path(directory) / "client.pem"
        path.touch(mode=0o600)
        path.write_bytes(cert.rstrip() + b"\n" + key)
        context.load_cert_chain(path)
