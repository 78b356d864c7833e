"""Calls webhooks over HTTPS: at a URL, or at a service, whose endpoint is then found by its EndpointSlices.

The server need not be on a node: names of services are resolved here and requests go to a ready endpoint, while TLS
checks the certificate for NAME.NAMESPACE.svc. Connections are kept between calls.
"""

from __future__ import annotations

import asyncio
import base64
import random
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from tiphys.apiserver.admission.webhooks.interface import CallError
from tiphys.apiserver.registry.strategy import Reader
from tiphys.machinery.meta import ObjectName

KEEP_ALIVE: Final = 30.0  # seconds an idle connection is kept
SERVICE_LABEL: Final = "kubernetes.io/service-name"


class ServiceResolver(AbstractResolver):
    """Resolves NAME.NAMESPACE.svc to ready endpoints, everything else as the machine does."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._machine = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses to try, in random order. Raises CallError when the service is not there or has no endpoints."""
        name, _, rest = host.partition(".")
        namespace, _, suffix = rest.partition(".")
        if suffix != "svc":
            return await self._machine.resolve(host, port, family)
        found = endpoints_of(self._reader, namespace, name, port)
        random.shuffle(found)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=number,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address, number in found
        ]

    async def close(self) -> None:
        """Release what the machine's resolver holds."""
        await self._machine.close()


def endpoints_of(reader: Reader, namespace: str, name: str, port: int) -> list[tuple[str, int]]:
    """(address, port) of the ready endpoints behind a service's port. Raises CallError, worded as upstream's."""
    service = reader.get("", "services", ObjectName(namespace, name))
    if service is None:
        raise CallError(f'service "{name}" not found')
    spec = service.get("spec") or {}
    ports = [one for one in spec.get("ports") or () if one.get("port") == port]
    if not ports:
        raise CallError(f'no service port {port} found for service "{name}"')
    found = []
    for part in reader.list("discovery.k8s.io", "endpointslices", namespace):
        if (part["metadata"].get("labels") or {}).get(SERVICE_LABEL) != name:
            continue
        numbers = [
            one["port"]
            for one in part.get("ports") or ()
            if one.get("port") and (one.get("name") or "") == (ports[0].get("name") or "")
        ]
        for endpoint in part.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            found += [(address, number) for address in endpoint.get("addresses") or () for number in numbers]
    if not found:
        raise CallError(f'no endpoints available for service "{name}"')
    return found


def url_of(config: Mapping[str, Any]) -> str:
    """Where a `clientConfig` points to."""
    service = config.get("service")
    if not service:
        url = str(config.get("url") or "")
        scheme, separator, rest = url.partition("://")
        return url if "/" in rest or "?" in rest else f"{scheme}{separator}{rest}/"
    path = str(service.get("path") or "/")
    if not path.startswith("/"):
        path = f"/{path}"
    return f"https://{service.get('name')}.{service.get('namespace')}.svc:{service.get('port') or 443}{path}"


class HttpsCaller:
    """`WebhookCaller` over aiohttp. Made before the loop runs; opens its session at the first call."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def call(self, config: Mapping[str, Any], body: bytes, timeout: float) -> bytes:
        """POST `body`; the answer. Raises CallError."""
        url = url_of(config)
        separator = "&" if "?" in url else "?"
        url = f"{url}{separator}timeout={timeout:g}s"
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            service = config.get("service")
            if service:  # said in our own words, before the connector wraps them
                endpoints_of(
                    self._reader, service.get("namespace", ""), service.get("name", ""), service.get("port") or 443
                )
            session = self._open()
            async with asyncio.timeout(timeout):
                async with session.post(
                    url,
                    data=body,
                    headers=headers,
                    ssl=self._context(config.get("caBundle") or ""),
                    allow_redirects=False,
                ) as response:
                    data = await response.read()
                    _check(response.status, data)
                    return data
        except CallError as error:
            text = str(error)
            known = text.startswith(("an error on the server", "the server "))
            raise CallError(f"failed to call webhook: {text if known else _post(url, text)}") from None
        except TimeoutError:
            raise CallError(f"failed to call webhook: {_post(url, 'context deadline exceeded')}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CallError(f"failed to call webhook: {_post(url, explained(error))}") from None

    async def close(self) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=ServiceResolver(self._reader), use_dns_cache=False, keepalive_timeout=KEEP_ALIVE, limit=0
            )
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=True, trust_env=False)
        return self._session

    def _context(self, bundle: str) -> ssl.SSLContext:
        context = self._contexts.get(bundle)
        if context is None:
            try:
                pem = base64.b64decode(bundle).decode() if bundle else None
                context = ssl.create_default_context(cadata=pem)
            except (ValueError, ssl.SSLError):
                raise CallError("unable to load root certificates: unable to parse bytes as PEM block") from None
            if len(self._contexts) >= 1000:
                self._contexts.clear()
            self._contexts[bundle] = context
        return context


def _post(url: str, why: str) -> str:
    return f'Post "{url}": {why}'


def _check(status: int, data: bytes) -> None:
    if 200 <= status < 300:
        return
    if status == 404:
        raise CallError("the server could not find the requested resource")
    text = data[:2048].decode(errors="replace").strip().replace('"', '\\"')
    raise CallError(f'an error on the server ("{text or "unknown"}") has prevented the request from succeeding')


def explained(error: Exception) -> str:
    """Why a connection failed, in the words clients know."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"tls: failed to verify certificate: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.os_error
        if isinstance(reason, ConnectionRefusedError):
            return f"dial tcp {error.host}:{error.port}: connect: connection refused"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return f"dial tcp: lookup {error.host}: no such host"
        return f"dial tcp {error.host}:{error.port}: {reason.strerror or reason}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "EOF"
    return str(error) or type(error).__name__
