"""The proxy's small HTTP answers: /healthz and /livez, /metrics and /proxyMode, and a server for each
Service with externalTrafficPolicy Local, by which load balancers learn whether this node has an
endpoint. https://kubernetes.io/docs/reference/networking/virtual-ips/#external-traffic-policy
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Final

from tiphys.base.log import get_logger
from tiphys.proxy.model import ServiceKey

log = get_logger(__name__)

REASONS: Final = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}
JSON: Final = "application/json"

# Path → status, content type, body; None is not found.
Answer = Callable[[str], tuple[int, str, bytes] | None]


async def serve(host: str, port: int, answer: Answer) -> asyncio.Server:
    """Answer GET requests on an address; the caller closes the server. Raises OSError when it is taken."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10.0)
            path = head.split(b" ", 2)[1].decode("latin-1").split("?")[0]
            status, kind, body = answer(path) or (404, "text/plain; charset=utf-8", b"404 page not found\n")
            lines = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            if kind == JSON:
                lines += "X-Content-Type-Options: nosniff\r\n"
            writer.write(f"{lines}Connection: close\r\n\r\n".encode() + body)
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            pass  # a client that says nothing sensible gets nothing
        finally:
            writer.close()

    return await asyncio.start_server(one, host, port)


class ServiceHealth:
    """One server a health-check node port, for the Services that have one."""

    def __init__(self, host: str, is_healthy: Callable[[], bool]) -> None:
        self._host = host
        self._is_healthy = is_healthy
        self._servers: dict[int, tuple[ServiceKey, asyncio.Server]] = {}
        self._counts: dict[ServiceKey, int] = {}

    async def sync(self, ports: Mapping[ServiceKey, int], counts: Mapping[ServiceKey, int]) -> None:
        """Serve exactly these: Service → its port, and how many endpoints it has on this node."""
        self._counts = dict(counts)
        for number, (service, server) in list(self._servers.items()):
            if ports.get(service) != number:
                server.close()
                del self._servers[number]
        for service, number in ports.items():
            if number in self._servers:
                continue
            try:
                server = await serve(self._host, number, lambda _, service=service: self._answer(service))  # type: ignore[misc]  # mypy cannot type a lambda's default
            except OSError as error:
                log.error("health check port %d of service %s cannot be opened: %s", number, service, error.strerror)
                continue
            self._servers[number] = (service, server)

    def close(self) -> None:
        for _, server in self._servers.values():
            server.close()
        self._servers.clear()

    def _answer(self, service: ServiceKey) -> tuple[int, str, bytes]:
        count, healthy = self._counts.get(service, 0), self._is_healthy()
        body = {
            "service": {"namespace": service.namespace, "name": service.name},
            "localEndpoints": count,
            "serviceProxyHealthy": healthy,
        }
        return 200 if count and healthy else 503, JSON, json.dumps(body).encode()
