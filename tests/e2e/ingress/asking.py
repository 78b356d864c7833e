"""Requests to the ingress as clients outside the cluster make them."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """What came back. `said` is the echo of the pod, if it was a pod that answered."""

    status: int
    headers: dict[str, str]
    body: bytes
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def app(self) -> str:
        """The Deployment of the pod that answered."""
        return str(self.said.get("pod", "")).rsplit("-", 2)[0]

    @property
    def location(self) -> str:
        return self.headers.get("location", "")


class _ToAddress(http.client.HTTPSConnection):
    """HTTPS to an address under a server name."""

    def __init__(self, address: str, port: int, name: str) -> None:
        self.unchecked = ssl.create_default_context()
        self.unchecked.check_hostname = False
        self.unchecked.verify_mode = ssl.CERT_NONE
        super().__init__(address, port, timeout=10, context=self.unchecked)
        self.name = name

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), timeout=10)
        self.sock = self.unchecked.wrap_socket(plain, server_hostname=self.name)


class Front:
    """The nodes' addresses."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses

    def ask(
        self,
        host: str,
        path: str = "/",
        *,
        tls: bool = False,
        node: int = 0,
        method: str = "GET",
        body: bytes | None = None,
        port: int = 0,
        **headers: str,
    ) -> Answer:
        """One request."""
        address = self.addresses[node]
        connection: http.client.HTTPConnection
        if tls:
            connection = _ToAddress(address, port or 443, host)
        else:
            connection = http.client.HTTPConnection(address, port or 80, timeout=10)
        with closing(connection):
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Host": host, **given})
            answer = connection.getresponse()
            data = answer.read()
        found = Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, data)
        if data.startswith(b'{"pod"'):
            found.said = json.loads(data)
        return found

    def certificate(self, host: str, node: int = 0) -> str:
        """The certificate shown for a name (PEM)."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection((self.addresses[node], 443), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as channel,
        ):
            shown = channel.getpeercert(binary_form=True)
        assert shown is not None
        return ssl.DER_cert_to_PEM_cert(shown)

    def upgraded(self, host: str, node: int = 0) -> socket.socket:
        """A connection that was upgraded and echoes bytes."""
        channel = socket.create_connection((self.addresses[node], 80), timeout=10)
        request = f"GET /upgrade HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        channel.sendall(request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += channel.recv(1)
        assert head.startswith(b"HTTP/1.1 101"), head
        return channel
