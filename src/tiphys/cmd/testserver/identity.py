"""Who is who in a test's cluster: an authority, the server, the administrator, in one private directory.

ca.crt ca.key   server.crt server.key   client.crt client.key   sa.key   kubeconfig
front-proxy-ca.crt   front-proxy-client.crt front-proxy-client.key
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import yaml

from tiphys.apiserver.pki import Authority, KeyPair, key_pem, new_key
from tiphys.cmd.cluster.identities import kubeconfig

# In C where the library has it: in Python the kubeconfig would be a tenth of a cluster's start.
DUMPER: Final[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
SERVER_NAMES: Final = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "localhost",
    "127.0.0.1",
    "10.96.0.1",
)


@dataclass(frozen=True, slots=True)
class Identity:
    """The files of one cluster, and what is in those that are needed again."""

    directory: Path
    ca: bytes
    client: KeyPair

    @classmethod
    def create(cls, directory: Path) -> Self:
        """Make everything but the kubeconfig, in a directory that is made too. Raises OSError."""
        directory.mkdir(mode=0o700)
        authority = Authority.create("kubernetes")
        server = authority.server("kube-apiserver", SERVER_NAMES)
        client = authority.client("kubernetes-admin", ("system:masters",))
        made = cls(directory, authority.pem, client)
        made.write("ca.crt", authority.pem)
        made.write("ca.key", authority.private_pem)
        made.write("server.crt", server.certificate)
        made.write("server.key", server.key)
        made.write("client.crt", client.certificate)
        made.write("client.key", client.key)
        # What the aggregator shows to extension servers.
        front_proxy = Authority.create("front-proxy-ca")
        proxy = front_proxy.client("front-proxy-client")
        made.write("front-proxy-ca.crt", front_proxy.pem)
        made.write("front-proxy-client.crt", proxy.certificate)
        made.write("front-proxy-client.key", proxy.key)
        made.write("sa.key", key_pem(new_key()))
        return made

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return (self.directory / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """A file only we can read. It lives as long as the test, so nothing waits for the disk."""
        descriptor = os.open(self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)

    def write_kubeconfig(self, url: str) -> Path:
        """The administrator's kubeconfig for the server at `url`."""
        certificate, key = (base64.b64encode(data).decode() for data in (self.client.certificate, self.client.key))
        user = {"client-certificate-data": certificate, "client-key-data": key}
        document = kubeconfig(self.directory.name, url, self.ca, user)
        self.write("kubeconfig", yaml.dump(document, Dumper=DUMPER, sort_keys=False).encode())
        return self.directory / "kubeconfig"
