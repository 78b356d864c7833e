"""A client of image registries (OCI distribution specification 1.1): manifests and blobs of one repository.

Authentication is what the registry asks for in its 401: Basic with the credentials, or a Bearer token fetched
from its realm. https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp

from tiphys import __version__
from tiphys.runtime.errors import NotFound, PermissionDenied, RuntimeFault, Unavailable, Unreachable
from tiphys.runtime.images.reference import Reference
from tiphys.runtime.options import RegistryOptions

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT: Final = ", ".join((DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, "*/*"))
MAX_MANIFEST: Final = 4 << 20
MAX_TOKEN: Final = 1 << 20
# Seconds without a byte before a connection is given up.
SILENCE: Final = 60.0
CONNECT: Final = 15.0

_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Credentials:
    """CRI's AuthConfig."""

    username: str = ""
    password: str = ""
    auth: str = ""  # base64 of username:password
    identity_token: str = ""
    registry_token: str = ""

    def pair(self) -> tuple[str, str] | None:
        """User name and password, None when there are none."""
        if self.username:
            return self.username, self.password
        if self.auth:
            name, colon, password = base64.b64decode(self.auth).decode(errors="replace").partition(":")
            return (name, password.strip("\0")) if colon else None
        return None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index as the registry sent it."""

    media_type: str
    body: bytes


class Registry:
    """One repository at one host; an async context manager around its connections."""

    def __init__(self, reference: Reference, base: str, credentials: Credentials, options: RegistryOptions) -> None:
        """`base` is the URL before `/v2/`, as `https://registry-1.docker.io`."""
        self._reference = reference
        self._base = base.rstrip("/")
        self._credentials = credentials
        self._options = options
        self._authorization = f"Bearer {credentials.registry_token}" if credentials.registry_token else ""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT, sock_read=SILENCE)
        connector = aiohttp.TCPConnector(ssl=self._ssl_context())
        headers = {"User-Agent": f"tiphys/{__version__}"}
        # Registries' blobs are compressed already; the bytes must arrive as they are for the digest.
        self._session = aiohttp.ClientSession(
            timeout=timeout, connector=connector, headers=headers, auto_decompress=False, trust_env=True
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def _ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        host = urlsplit(self._base).netloc
        directory = self._options.certs_dir / host
        if directory.is_dir():
            for authority in sorted(directory.glob("*.crt")):
                context.load_verify_locations(authority)
            for certificate in sorted(directory.glob("*.cert")):
                context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        if host in self._options.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    async def manifest(self, wanted: str) -> Manifest:
        """The manifest of a tag or digest; NotFound, PermissionDenied, Unavailable, Unreachable."""
        async with self._get(f"manifests/{wanted}", {"Accept": ACCEPT}) as response:
            body = await _read(response, MAX_MANIFEST, f"manifest of {self._reference}")
            return Manifest(response.headers.get("Content-Type", "").partition(";")[0].strip(), body)

    @asynccontextmanager
    async def blob(self, digest: str, *, offset: int = 0) -> AsyncIterator[tuple[AsyncIterator[bytes], bool]]:
        """The bytes of a blob, and whether they begin at `offset` (a registry may send all of it again)."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._get(f"blobs/{digest}", headers) as response:
            yield response.content.iter_chunked(256 << 10), response.status == 206

    @asynccontextmanager
    async def _get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None
        url = f"{self._base}/v2/{self._reference.path}/{path}"
        try:
            response = await self._session.get(url, headers=self._with_authorization(headers))
            if response.status == 401 and await self._authorize(response.headers.getall("WWW-Authenticate", [])):
                response.release()
                response = await self._session.get(url, headers=self._with_authorization(headers))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            kind = Unreachable if _never_connected(error) else Unavailable
            raise kind(f'failed to do request: Get "{url}": {_words(error)}') from error
        async with response:
            self._check(response, url)
            try:
                yield response
            except (aiohttp.ClientError, TimeoutError) as error:
                raise Unavailable(f"failed to copy: {_words(error)}") from error

    def _with_authorization(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {**headers, **({"Authorization": self._authorization} if self._authorization else {})}

    def _check(self, response: aiohttp.ClientResponse, url: str) -> None:
        if response.status in (200, 206):
            return
        if response.status == 404:
            raise NotFound(f"{self._reference}: not found")
        if response.status in (401, 403):
            detail = f"unexpected status from GET request to {url}: {response.status} {response.reason}"
            if not self._credentials.pair() and not self._authorization:
                detail = "no basic auth credentials"
            raise PermissionDenied(
                "pull access denied, repository does not exist or may require authorization: "
                f"authorization failed: {detail}"
            )
        message = f"unexpected status from GET request to {url}: {response.status} {response.reason}"
        if response.status == 429 or response.status >= 500:
            raise Unavailable(message)
        raise RuntimeFault(message)

    async def _authorize(self, challenges: list[str]) -> bool:
        """Answer a 401; False when there is nothing to answer with."""
        for challenge in challenges:
            scheme, _, rest = challenge.partition(" ")
            parameters = dict(_CHALLENGE.findall(rest))
            if scheme.lower() == "bearer" and "realm" in parameters:
                self._authorization = f"Bearer {await self._token(parameters)}"
                return True
            pair = self._credentials.pair()
            if scheme.lower() == "basic" and pair is not None:
                self._authorization = _basic(pair)
                return True
        return False

    async def _token(self, parameters: Mapping[str, str]) -> str:
        assert self._session is not None
        scope = parameters.get("scope") or f"repository:{self._reference.path}:pull"
        query = {"service": parameters.get("service", ""), "scope": scope}
        pair = self._credentials.pair()
        realm = parameters["realm"]
        try:
            if self._credentials.identity_token:
                form = {**query, "grant_type": "refresh_token", "client_id": "tiphys"}
                form["refresh_token"] = self._credentials.identity_token
                request = self._session.post(realm, data=form)
            else:
                headers = {"Authorization": _basic(pair)} if pair else {}
                request = self._session.get(realm, params=query, headers=headers)
            async with request as response:
                if response.status != 200:
                    raise PermissionDenied(
                        "pull access denied, repository does not exist or may require authorization: failed to fetch "
                        f"{'oauth' if pair else 'anonymous'} token: unexpected status from GET request to {realm}: "
                        f"{response.status} {response.reason}"
                    )
                answer = _token_answer(await _read(response, MAX_TOKEN, "token response"))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f'failed to fetch token: Get "{realm}": {_words(error)}') from error
        return answer


async def _read(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """The whole body. Raises RuntimeFault when it is longer than `limit` bytes."""
    body = b""
    async for piece in response.content.iter_chunked(64 << 10):
        body += piece
        if len(body) > limit:
            raise RuntimeFault(f"{what} is larger than {limit} bytes")
    return body


def _token_answer(body: bytes) -> str:
    """The token in a token server's answer. Raises RuntimeFault."""
    try:
        document: dict[str, Any] = json.loads(body)
        token = str(document.get("token") or document.get("access_token") or "")
    except (ValueError, AttributeError, RecursionError) as error:
        raise RuntimeFault(f"failed to fetch token: unable to decode token response: {error}") from error
    if not token.isprintable():
        raise RuntimeFault("failed to fetch token: unable to decode token response: the token is not printable")
    return token


def _basic(pair: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(pair).encode()).decode()


def _never_connected(error: BaseException) -> bool:
    """Whether no connection came about. A registry whose certificate is wrong has answered."""
    if isinstance(error, aiohttp.ClientSSLError):
        return False
    unanswered = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
    return isinstance(error, unanswered)


def _words(error: BaseException) -> str:
    """The cause in the words of other runtimes where they are well known."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"tls: failed to verify certificate: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        reason = os.strerror(number).lower() if number else str(error.os_error)
        return f"dial tcp {error.host}:{error.port}: connect: {reason}"
    if isinstance(error, TimeoutError):
        return "i/o timeout"
    if isinstance(error, aiohttp.TooManyRedirects):
        return f"stopped after {len(error.history)} redirects"
    return str(error) or type(error).__name__
