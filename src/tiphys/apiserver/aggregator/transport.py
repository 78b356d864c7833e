"""Transport: connections to extension servers, with the front proxy's certificate, and whole documents over them."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httptools

from tiphys.apiserver.aggregator.apiservices import Registration
from tiphys.apiserver.aggregator.identity import identity_headers
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.http.egress import Egress
from tiphys.apiserver.http.pool import Connections
from tiphys.apiserver.http.upstream import Exchange, Target, failure
from tiphys.apiserver.registry.strategy import Reader
from tiphys.apiserver.service_endpoints import Endpoint, ready_endpoints, service_slices
from tiphys.base.tls import client_context
from tiphys.machinery.meta import ObjectName

MAX_DOCUMENT: Final = 64 * 1024 * 1024
ATTEMPTS: Final = 3  # endpoints that are tried when connections are refused


class TransportError(Exception):
    """An extension server could not be asked; worded for the condition and for clients."""


class NoEndpointError(TransportError):
    """There is nothing to connect to: no Service, no such port, or nothing ready behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A whole answer; header names in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProxyCertificate:
    """The identity shown to extension servers: PEM files. Replaced files are noticed."""

    certificate: Path | None = None
    key: Path | None = None

    @property
    def age(self) -> int:
        """When it was written, in nanoseconds; 0 without one."""
        return self.certificate.stat().st_mtime_ns if self.certificate is not None else 0


class Transport:
    """Reaches the servers behind registrations. One per API server."""

    def __init__(self, reader: Reader, egress: Egress, certificate: ProxyCertificate) -> None:
        self._reader = reader
        self._egress = egress
        self._certificate = certificate
        self._contexts: dict[tuple[str, bool, int], ssl.SSLContext] = {}
        self._kept = Connections()

    # --- where ------------------------------------------------------------------------------------
    def targets(self, one: Registration, path: str) -> list[Target]:
        """Where a request for `path` may go, in random order. NoEndpointError, TransportError for a bad caBundle."""
        reference = one.service
        assert reference is not None
        service = self._reader.get("", "services", ObjectName(reference.namespace, reference.name))
        if service is None:
            raise NoEndpointError(f'service "{reference.name}" not found')
        spec, context = service.get("spec") or {}, self._context(one)
        if spec.get("type") == "ExternalName":
            name = spec.get("externalName") or ""
            server = reference.server_name
            return [Target(host=name, port=reference.port, path=path, tls=context, server_name=server)]
        port = next((port for port in spec.get("ports") or () if port.get("port") == reference.port), None)
        if port is None:
            raise NoEndpointError(f'no service port {reference.port} found for service "{reference.name}"')
        slices = service_slices(self._reader, reference.namespace, reference.name)
        found = ready_endpoints(slices, port.get("name") or "")
        if not found:
            raise NoEndpointError(f'no endpoints available for service "{reference.name}"')
        random.shuffle(found)
        return [self._target(endpoint, one, path, context) for endpoint in found]

    def address(self, one: Registration) -> str:
        """The URL of one of the endpoints, without a path. TransportError as `targets`."""
        return base_url(self.targets(one, "/")[0])

    def _target(self, endpoint: Endpoint, one: Registration, path: str, context: ssl.SSLContext) -> Target:
        assert one.service is not None
        return Target(
            host=endpoint.address,
            port=endpoint.port,
            path=path,
            tls=context,
            server_name=one.service.server_name,
            namespace=self._egress.namespace(endpoint.node),
        )

    def _context(self, one: Registration) -> ssl.SSLContext:
        try:
            key = (one.ca_bundle, one.insecure, self._certificate.age)
            known = self._contexts.get(key)
            if known is None:
                if len(self._contexts) > 100:
                    self._contexts.clear()
                known = self._contexts[key] = self._make_context(one)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise TransportError(f"unable to load root certificates or the proxy's certificate: {error}") from None
        return known

    def _make_context(self, one: Registration) -> ssl.SSLContext:
        if one.insecure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context = client_context(authorities=one.ca_bundle)
            context.hostname_checks_common_name = False  # only subject alternative names count
        if self._certificate.certificate is not None and self._certificate.key is not None:
            context.load_cert_chain(self._certificate.certificate, self._certificate.key)
        return context

    async def close(self) -> None:
        """End the connections that are kept."""
        await self._kept.close()

    # --- asking -----------------------------------------------------------------------------------
    async def connect(self, one: Registration, path: str) -> Exchange:
        """An open connection to one of the endpoints: another when one refuses. TransportError, TimeoutError."""
        error: BaseException | None = None
        for target in self.targets(one, path)[:ATTEMPTS]:
            exchange = Exchange(target, self._kept)
            try:
                await exchange.open()
                return exchange
            except (OSError, ValueError) as found:
                error, where = found, target
                await exchange.close()
            except BaseException:
                await exchange.close()
                raise
        assert error is not None
        raise TransportError(failure(where, error))

    async def fetch(
        self,
        one: Registration,
        path: str,
        user: UserInfo,
        *,
        headers: Sequence[tuple[str, str]] = (),
        timeout: float,
    ) -> Fetched:
        """GET a whole document within `timeout` seconds. TransportError, worded as Go's client words it."""
        where = f"https://{one.service.server_name}:{one.service.port}" if one.service is not None else ""
        try:
            where = base_url(self.targets(one, path)[0])
            async with asyncio.timeout(timeout):
                exchange = await self.connect(one, path)
                where = base_url(exchange.target)
                try:
                    return await _whole(exchange, [*headers, *identity_headers(user)])
                finally:
                    await exchange.close()
        except NoEndpointError:
            raise
        except TransportError as error:
            why = str(error)
        except TimeoutError:
            why = "context deadline exceeded"
        except (OSError, httptools.HttpParserError) as error:
            why = str(error) or type(error).__name__
        raise TransportError(f'Get "{where}{path}": {why}')


def base_url(target: Target) -> str:
    """The address of a target as a URL."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"https://{host}:{target.port}"


async def _whole(exchange: Exchange, headers: Sequence[tuple[str, str]]) -> Fetched:
    await exchange.send("GET", {}, b"", upgrade=False, more=headers)
    head = await exchange.answer()
    pieces: list[bytes] = []
    size = 0
    async for piece in exchange.body():
        pieces.append(piece)
        size += len(piece)
        if size > MAX_DOCUMENT:
            raise TransportError("the answer is too large")
    found = {name.lower(): value for name, value in head.headers}
    return Fetched(status=head.status, body=b"".join(pieces), headers=found)
