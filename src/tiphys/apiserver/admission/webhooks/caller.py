"""Calls webhooks over HTTPS: at a URL, or at a service, whose endpoint is then found by its EndpointSlices.

The server need not be on a node: names of services are resolved here and requests go to a ready endpoint, while TLS
checks the certificate for NAME.NAMESPACE.svc.
"""

from __future__ import annotations

import asyncio
import base64
import posixpath
import random
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import httptools
import orjson

from tiphys.apiserver.admission.webhooks.interface import CallError
from tiphys.apiserver.http.egress import Egress
from tiphys.apiserver.http.pool import Connections
from tiphys.apiserver.http.upstream import Exchange, Target
from tiphys.apiserver.registry.strategy import Reader
from tiphys.apiserver.service_endpoints import Endpoint, ready_endpoints, service_slices
from tiphys.base.tls import client_context
from tiphys.machinery.meta import ObjectName

MAX_ANSWER: Final = 8 * 1024 * 1024


def endpoints_of(reader: Reader, namespace: str, name: str, port: int) -> list[Endpoint]:
    """The ready endpoints behind a service's port. Raises CallError, worded as upstream's."""
    service = reader.get("", "services", ObjectName(namespace, name))
    if service is None:
        raise CallError(f'service "{name}" not found')
    spec = service.get("spec") or {}
    ports = [one for one in spec.get("ports") or () if one.get("port") == port]
    if not ports:
        raise CallError(f'no service port {port} found for service "{name}"')
    found = ready_endpoints(service_slices(reader, namespace, name), ports[0].get("name") or "")
    if not found:
        raise CallError(f'no endpoints available for service "{name}"')
    return found


def url_of(config: Mapping[str, Any]) -> str:
    """Where a `clientConfig` points to, the path as upstream asks for it: without empty parts, ".." or a last slash."""
    service = config.get("service")
    if service:
        host = f"{service.get('name')}.{service.get('namespace')}.svc:{service.get('port') or 443}"
        return f"https://{host}{_clean(str(service.get('path') or ''))}"
    parts = urlsplit(str(config.get("url") or ""))
    return urlunsplit(parts._replace(path=_clean(unquote(parts.path))))


def _clean(path: str) -> str:
    return quote(posixpath.normpath("/" + path.lstrip("/")), safe="/~!$&'()*+,;=:@?")


class HttpsCaller:
    """`WebhookCaller` over HTTPS, on connections that are kept between calls."""

    def __init__(self, reader: Reader, egress: Egress) -> None:
        self._reader = reader
        self._egress = egress
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._kept = Connections()

    async def call(self, config: Mapping[str, Any], body: bytes, timeout: float) -> bytes:
        """POST `body`; the answer. Raises CallError."""
        url = url_of(config)
        url = f"{url}{'&' if '?' in url else '?'}timeout={timeout:g}s"
        try:
            target = self._target(config, url)
            async with asyncio.timeout(timeout):
                status, data = await _exchange(target, self._kept, body)
        except CallError as error:
            why = str(error)
        except ssl.SSLCertVerificationError as error:
            why = f"tls: failed to verify certificate: x509: {_verification(error)}"
        except ConnectionRefusedError:
            why = f"dial tcp {target.host}:{target.port}: connect: connection refused"
        except ConnectionResetError:
            why = "EOF"
        except socket.gaierror:
            why = f"dial tcp: lookup {target.host}: no such host"
        except TimeoutError:
            why = "context deadline exceeded"
        except (OSError, ValueError, httptools.HttpParserError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        else:
            _check(status, data)
            return data
        raise CallError(f'failed to call webhook: Post "{url}": {why}')

    async def close(self) -> None:
        """End the connections that are kept."""
        await self._kept.close()

    def _target(self, config: Mapping[str, Any], url: str) -> Target:
        parts = urlsplit(url)
        path = f"{parts.path or '/'}?{parts.query}"
        context = self._context(config.get("caBundle") or "") if parts.scheme == "https" else None
        name, port = parts.hostname or "", parts.port or (443 if context else 80)
        service = config.get("service")
        if not service:
            return Target(host=name, port=port, path=path, tls=context)
        found = random.choice(endpoints_of(self._reader, service["namespace"], service["name"], port))
        return Target(
            host=found.address,
            port=found.port,
            path=path,
            tls=context,
            server_name=name,
            namespace=self._egress.namespace(found.node),
        )

    def _context(self, bundle: str) -> ssl.SSLContext:
        context = self._contexts.get(bundle)
        if context is None:
            try:
                pem = base64.b64decode(bundle).decode()
                context = client_context(authorities=pem)
            except (ValueError, ssl.SSLError):
                raise CallError("unable to load root certificates: unable to parse bytes as PEM block") from None
            if len(self._contexts) >= 1000:
                self._contexts.clear()
            self._contexts[bundle] = context
        return context


async def _exchange(target: Target, kept: Connections, body: bytes) -> tuple[int, bytes]:
    # A webhook may be asked twice about the same write: it has to be ready for that.
    exchange = Exchange(target, kept, repeatable=True)
    try:
        await exchange.open()
        headers = {"content-type": "application/json", "accept": "application/json", "user-agent": "kube-apiserver"}
        await exchange.send("POST", headers, body, upgrade=False)
        head = await exchange.answer()
        pieces: list[bytes] = []
        size = 0
        async for piece in exchange.body():
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER:
                raise CallError("the answer is too large")
        return head.status, b"".join(pieces)
    finally:
        await exchange.close()


_ANSWERS: Final = {
    400: "the server rejected our request for an unknown reason",
    401: "the server has asked for the client to provide credentials",
    404: "the server could not find the requested resource",
    405: "the server does not allow this method on the requested resource",
    409: "the server reported a conflict",
    429: "the server has received too many requests and has asked us to try again later",
    503: "the server is currently unable to handle the request",
}


def _check(status: int, data: bytes) -> None:
    """Raise CallError for an answer without a review, in the words of upstream's client."""
    if 200 <= status < 300:
        if not data:
            problem = f"0-length response with status code: {status} and content type: application/json"
            raise CallError(f"failed to call webhook: {problem}")
        return
    raise CallError(f"failed to call webhook: {_told(data) or _words(status, data)}")


def _told(data: bytes) -> str:
    """What a Status in the answer says; "" without one."""
    try:
        found = orjson.loads(data)
    except ValueError:
        return ""
    if isinstance(found, dict) and (found.get("kind"), found.get("apiVersion")) == ("Status", "v1"):
        return str(found.get("message") or "")
    return ""


def _words(status: int, data: bytes) -> str:
    text = data[:2048].decode(errors="replace").strip()
    if status in _ANSWERS:
        return _ANSWERS[status]
    if status == 403 and text:
        return text
    if status >= 500:
        shown = text.replace('"', '\\"')
        return f'an error on the server ("{shown}") has prevented the request from succeeding'
    return f"the server responded with the status code {status} but did not return more information"


def _verification(error: ssl.SSLCertVerificationError) -> str:
    """Why a certificate is not trusted. OpenSSL tells several ways of being signed by somebody unknown apart."""
    if error.verify_code in (18, 19, 20, 21):
        return "certificate signed by unknown authority"
    return str(error.verify_message)
