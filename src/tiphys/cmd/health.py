"""What a component says of itself: /healthz, /livez and /readyz to everybody, /metrics to those who may read it.

https://kubernetes.io/docs/concepts/cluster-administration/system-metrics/: over TLS, by default with a certificate the
component signs for itself; who asks, and whether he may (`get` of the path as a non-resource URL), the API server is
asked by TokenReview and SubjectAccessReview.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tiphys.api.authentication.v1 import TokenReview, TokenReviewSpec
from tiphys.api.authorization.v1 import NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec
from tiphys.apiserver.pki import Authority
from tiphys.base.answers import METRICS, TEXT
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY
from tiphys.client import ApiConnectionError, Client
from tiphys.cmd.errors import CommandError
from tiphys.cmd.flags import FlagParser
from tiphys.machinery.errors import StatusError

log = get_logger(__name__)

OPEN: Final = frozenset({"/healthz", "/livez", "/readyz"})
READ_WITHIN: Final = 10.0  # seconds for the head of a request
LONGEST_HEAD: Final = 65536
_REASONS: Final = {200: "OK", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 500: "Internal Server Error"}


def add_health_flags(flags: FlagParser) -> None:
    """`--secure-port` and `--bind-address`."""
    flags.add_argument("--secure-port", type=int, default=0, help="port for metrics and health, over TLS; 0 for none")
    flags.add_argument("--bind-address", default="127.0.0.1", help="the address for it")


@asynccontextmanager
async def health_served(client: Client, address: str, port: int) -> AsyncIterator[None]:
    """Answer while the block runs; with port 0 nothing is done. Raises CommandError when the port is taken."""
    if not port:
        yield
        return
    try:
        server = await asyncio.start_server(
            Answering(client).one, address, port, ssl=_context(address), limit=LONGEST_HEAD
        )
    except OSError as error:
        raise CommandError(f"cannot serve metrics on {address} port {port}: {error.strerror}") from error
    try:
        yield
    finally:
        server.close()


class Answering:
    """One answer a connection: who asks for metrics asks every few seconds."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read a request and answer it."""
        try:
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), READ_WITHIN)).decode("latin-1")
            first, *lines = head.split("\r\n")
            path = first.split(" ")[1].partition("?")[0]
            names = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            status, kind, body = await self.answer(path, names.get("authorization", ""))
            lines = [f"HTTP/1.1 {status} {_REASONS[status]}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
            writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            pass  # a client that says nothing sensible gets nothing
        finally:
            writer.close()

    async def answer(self, path: str, authorization: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a GET of `path`."""
        if path in OPEN:
            return 200, TEXT, b"ok"
        try:
            refused = await self._refused(path, authorization)
        except (StatusError, ApiConnectionError) as error:
            log.warning("cannot ask who may read %s: %s", path, error)
            return 500, TEXT, b"Internal Server Error\n"
        if refused:
            return refused, TEXT, f"{_REASONS[refused]}\n".encode()
        if path != "/metrics":
            return 404, TEXT, b"404 page not found\n"
        return 200, METRICS, REGISTRY.expose()

    async def _refused(self, path: str, authorization: str) -> int:
        """The status that says no; 0 for who may."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return 401
        review = await self._client.create(TokenReview(spec=TokenReviewSpec(token=token.strip())))
        user = review.status.user
        if not review.status.authenticated or user is None:
            return 401
        asked = SubjectAccessReviewSpec(
            user=user.username,
            groups=user.groups,
            uid=user.uid,
            non_resource_attributes=NonResourceAttributes(path=path, verb="get"),
        )
        decided = await self._client.create(SubjectAccessReview(spec=asked))
        return 0 if decided.status.allowed else 403


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
