"""HttpServer: listening sockets, TLS, the set of connections, and the sweep of slow ones."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import ssl
import time
from typing import Final

from tiphys.apiserver.http.connection import Connection, Handler

MAX_BODY: Final = 3 * 1024 * 1024  # bytes; upstream's limit of a request body
READ_TIMEOUT: Final = 32.0  # seconds from the first byte of a request to its last; upstream allows 32 for the head
IDLE_TIMEOUT: Final = 300.0  # seconds a connection may stay open without its first request
SWEEP_INTERVAL: Final = 2.0
TLS_HANDSHAKE_TIMEOUT: Final = 15.0


class HttpServer:
    """Serves `handler` on any number of addresses. Create, `listen` on each, and `stop` in the end."""

    def __init__(self, handler: Handler, *, max_body: int = MAX_BODY, read_timeout: float = READ_TIMEOUT) -> None:
        self.handler = handler
        self.max_body = max_body
        self.read_timeout = read_timeout
        self.connections: set[Connection] = set()
        self.stopping = False
        self._servers: list[asyncio.AbstractServer] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._date: tuple[int, bytes] = (0, b"")

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> tuple[str, int]:
        """Listen on one address (port 0: any free one) and return the address bound. OSError when it is taken."""
        listening = bound_socket(host, port)
        try:
            await self.listen_socket(listening, tls)
        except BaseException:
            listening.close()
            raise
        name = listening.getsockname()
        return str(name[0]), int(name[1])

    async def listen_socket(self, bound: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Serve on a socket that is bound; it is closed with the server. OSError when another listens there."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self, loop),
            sock=bound,
            ssl=tls,
            ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT if tls else None,
            backlog=1024,
        )
        self._servers.append(server)
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP_INTERVAL, self.sweep)

    async def stop(self, grace: float = 2.0) -> None:
        """Stop accepting, let answers under way finish for `grace` seconds, then cut what is left."""
        self.stopping = True
        for server in self._servers:
            server.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        tasks = [task for c in list(self.connections) if (task := c.task) is not None]
        for connection in list(self.connections):
            connection.close_when_idle()
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for connection in list(self.connections):
            connection.abort()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()

    def date_header(self) -> bytes:
        """The Date header line, made once a second."""
        now = int(time.time())
        if self._date[0] != now:
            line = f"Date: {email.utils.formatdate(now, usegmt=True)}\r\n".encode()
            self._date = (now, line)
        return self._date[1]

    def sweep(self) -> None:
        """Cut clients that send their request too slowly; called every SWEEP_INTERVAL."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        limit = time.monotonic() - self.read_timeout
        for connection in list(self.connections):
            since = connection.receiving_since
            if since is not None and since < limit:
                connection.timed_out()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_INTERVAL, self.sweep)


def bound_socket(host: str, port: int) -> socket.socket:
    """A TCP socket bound to one address (port 0: any free one) that does not listen yet. OSError when it is taken."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def tls_context(certificate: str, key: str, *client_cas: str) -> ssl.SSLContext:
    """A server context from PEM files: TLS 1.2 or newer, client certificates asked for but not required.

    A certificate that does not verify against one of `client_cas` ends the handshake. OSError or ssl.SSLError when a
    file is missing or wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    # No session tickets: clients of Kubernetes do not resume sessions, and the two that OpenSSL would send by itself
    # cost as much as the rest of the handshake (0.8 of 1.7 ms; a controller manager opens eighty connections).
    context.num_tickets = 0
    for client_ca in client_cas:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context
