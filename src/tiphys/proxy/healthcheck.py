"""The proxy's small HTTP answers: /healthz and /livez, /metrics and /proxyMode, and a server for each
Service with externalTrafficPolicy Local, by which load balancers learn whether this node has an
endpoint. https://kubernetes.io/docs/reference/networking/virtual-ips/#external-traffic-policy
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping

from tiphys.base.answers import JSON, serve
from tiphys.base.log import get_logger
from tiphys.proxy.model import ServiceKey

log = get_logger(__name__)


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
