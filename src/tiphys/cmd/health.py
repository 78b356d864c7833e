"""What a component says of itself: /healthz, /livez and /readyz to everybody, /metrics and /configz to those who may.

https://kubernetes.io/docs/concepts/cluster-administration/system-metrics/: over TLS, by default with a certificate the
component signs for itself. Who asks is known by a client certificate of the cluster's authority (which stands in the
ConfigMap kube-system/extension-apiserver-authentication) or by TokenReview; whether he may (`get` of the path as a
non-resource URL) the API server is asked by SubjectAccessReview.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from tiphys.api.authentication.v1 import TokenReview, TokenReviewSpec
from tiphys.api.authorization.v1 import NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec
from tiphys.api.core.v1 import ConfigMap
from tiphys.apiserver.pki import Authority
from tiphys.base.answers import JSON, METRICS, TEXT
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY
from tiphys.client import ApiConnectionError, Client
from tiphys.cmd.errors import CommandError
from tiphys.cmd.flags import FlagParser
from tiphys.machinery.errors import StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

OPEN: Final = frozenset({"/healthz", "/livez", "/readyz"})
TRUST: Final = ObjectName("kube-system", "extension-apiserver-authentication")
REMEMBERED: Final = 10.0  # seconds an answer of the API server about a caller is good
MOST_REMEMBERED: Final = 1024
READ_WITHIN: Final = 10.0  # seconds for the head of a request
LONGEST_HEAD: Final = 65536
_REASONS: Final = {200: "OK", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 500: "Internal Server Error"}


def add_health_flags(flags: FlagParser) -> None:
    """`--secure-port` and `--bind-address`."""
    flags.add_argument("--secure-port", type=int, default=0, help="port for metrics and health, over TLS; 0 for none")
    flags.add_argument("--bind-address", default="127.0.0.1", help="the address for it")


@dataclass(frozen=True, slots=True)
class Says:
    """What a component has to say. `missing`: the check of readiness that fails now, "" when it is ready."""

    configuration: Callable[[], Mapping[str, Any]] | None = None  # for /configz
    missing: Callable[[], str] = lambda: ""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as the API server has to be told."""

    name: str
    groups: tuple[str, ...]
    uid: str = ""


@asynccontextmanager
async def health_served(client: Client, address: str, port: int, says: Says | None = None) -> AsyncIterator[None]:
    """Answer while the block runs; with port 0 nothing is done. Raises CommandError when the port is taken."""
    if not port:
        yield
        return
    context = _context(address)
    await _trust(client, context)
    answering = Answering(client, says or Says())
    try:
        server = await asyncio.start_server(answering.one, address, port, ssl=context, limit=LONGEST_HEAD)
    except OSError as error:
        raise CommandError(f"cannot serve metrics on {address} port {port}: {error.strerror}") from error
    try:
        yield
    finally:
        server.close()


class Answering:
    """One answer a connection: who asks for metrics asks every few seconds."""

    def __init__(self, client: Client, says: Says) -> None:
        self._client = client
        self._says = says
        self._known: dict[tuple[str, str], tuple[float, int]] = {}  # (path, who asks) → until when, the refusal

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read a request and answer it."""
        try:
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), READ_WITHIN)).decode("latin-1")
            first, *lines = head.split("\r\n")
            path = first.split(" ")[1].partition("?")[0]
            names = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            secured = writer.get_extra_info("ssl_object")
            certificate = secured.getpeercert() if secured is not None else None
            status, kind, body = await self.answer(path, names.get("authorization", ""), certificate)
            lines = [f"HTTP/1.1 {status} {_REASONS[status]}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
            writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            pass  # a client that says nothing sensible gets nothing
        finally:
            writer.close()

    async def answer(
        self, path: str, authorization: str, certificate: Mapping[str, Any] | None = None
    ) -> tuple[int, str, bytes]:
        """Status, content type and body for a GET of `path`; `certificate` is the client's, verified."""
        if path in OPEN:
            missing = self._says.missing() if path == "/readyz" else ""
            if missing:
                return 500, TEXT, f"[+]ping ok\n[-]{missing} failed: reason withheld\nreadyz check failed\n".encode()
            return 200, TEXT, b"ok"
        try:
            refused = await self._remembered(path, authorization, certificate or {})
        except (StatusError, ApiConnectionError) as error:
            log.warning("cannot ask who may read %s: %s", path, error)
            return 500, TEXT, b"Internal Server Error\n"
        if refused:
            return refused, TEXT, f"{_REASONS[refused]}\n".encode()
        if path == "/configz" and self._says.configuration is not None:
            return 200, JSON, msgspec.json.encode(self._says.configuration())
        if path != "/metrics":
            return 404, TEXT, b"404 page not found\n"
        return 200, METRICS, REGISTRY.expose()

    async def _remembered(self, path: str, authorization: str, certificate: Mapping[str, Any]) -> int:
        """`_refused`, asked once in a while."""
        now, key = time.monotonic(), (path, f"{authorization} {certificate.get('subject')}")
        known = self._known.get(key)
        if known is not None and known[0] > now:
            return known[1]
        refused = await self._refused(path, authorization, certificate)
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        self._known[key] = (now + REMEMBERED, refused)
        return refused

    async def _refused(self, path: str, authorization: str, certificate: Mapping[str, Any]) -> int:
        """The status that says no; 0 for who may."""
        caller = _of_certificate(certificate) or await self._of_token(authorization)
        if caller is None:
            return 401
        if "system:masters" in caller.groups:
            return 0
        asked = SubjectAccessReviewSpec(
            user=caller.name,
            groups=caller.groups,
            uid=caller.uid,
            non_resource_attributes=NonResourceAttributes(path=path, verb="get"),
        )
        decided = await self._client.create(SubjectAccessReview(spec=asked))
        return 0 if decided.status.allowed else 403

    async def _of_token(self, authorization: str) -> Caller | None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        review = await self._client.create(TokenReview(spec=TokenReviewSpec(token=token.strip())))
        user = review.status.user
        if not review.status.authenticated or user is None:
            return None
        return Caller(user.username, tuple(user.groups), user.uid)


def _of_certificate(certificate: Mapping[str, Any]) -> Caller | None:
    """The common name is the user, the organizations are the groups."""
    pairs = [pair for attribute in certificate.get("subject", ()) for pair in attribute]
    names = [value for key, value in pairs if key == "commonName"]
    groups = [value for key, value in pairs if key == "organizationName"]
    return Caller(names[-1], (*groups, "system:authenticated")) if names else None


async def _trust(client: Client, context: ssl.SSLContext) -> None:
    """Take client certificates of the authority the API server takes them of; without it there are tokens."""
    try:
        authorities = (await client.get(ConfigMap, TRUST)).data.get("client-ca-file", "")
        if authorities:
            context.load_verify_locations(cadata=authorities)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (StatusError, ApiConnectionError, ssl.SSLError) as error:
        log.warning("client certificates are not taken: %s: %s", TRUST, error)


def _context(address: str) -> ssl.SSLContext:
    """TLS with a certificate of this process alone: its authority's key and its own are forgotten with it."""
    pair = Authority.create(f"{socket.gethostname()}-ca").server(socket.gethostname(), ["localhost", address])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.NamedTemporaryFile(mode="wb") as file:  # readable by its owner only; the library takes files
        file.write(pair.certificate + pair.key)
        file.flush()
        context.load_cert_chain(Path(file.name))
    return context
