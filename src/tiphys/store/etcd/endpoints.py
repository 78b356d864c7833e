"""The members of an etcd cluster, as one: calls go to the current member, and to the next when that one fails.

    members   [a]   b    c          current: a
    a fails    a   [b]   c          every further call, and the watch, go to b

Each member has a connection of its own. A read is made again elsewhere until its time is up; a write only when it
surely was not applied, everything else is `UnknownOutcome` (see `faults`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import grpc

from tiphys.api.etcd import rpc_pb2_grpc
from tiphys.base.log import get_logger
from tiphys.store.errors import StoreClosedError, StoreTimeoutError
from tiphys.store.etcd.faults import Fault, concerns_member, judge

log = get_logger(__name__)

T = TypeVar("T")

ATTEMPT: Final = 4.0  # seconds one member has to answer; an election takes one to two
DEADLINE: Final = 12.0  # seconds after which a call is given up
FIRST_PAUSE: Final = 0.03
LONGEST_PAUSE: Final = 0.5
CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),  # etcd refuses clients that ask more often than every 5 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSFiles:
    """PEM files: the authority of the members' certificates (None: the system's), our certificate and its key."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> Any:
        """For a secure channel. Raises OSError."""
        ca, certificate, key = (path.read_bytes() if path else None for path in (self.ca, self.certificate, self.key))
        return grpc.ssl_channel_credentials(ca, key, certificate)


def target_of(url: str) -> tuple[bool, str]:
    """(whether it is TLS, what gRPC connects to) of a member's URL. Raises ValueError for an address that is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url} is not an address of etcd: http://HOST:PORT or https://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts.scheme == "https", f"{host}:{parts.port or 2379}"


class UnknownOutcome(Exception):
    """The call may have been applied or not, or may yet be."""


class Member:
    """One member: its address and the services it offers."""

    def __init__(self, url: str, tls: TLSFiles) -> None:
        """Raises ValueError for an address that is none, OSError for files that cannot be read."""
        secure, target = target_of(url)
        self.url = url
        if secure:
            self.channel: Any = grpc.aio.secure_channel(target, tls.credentials(), options=CHANNEL_OPTIONS)
        else:
            self.channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        self.kv = rpc_pb2_grpc.KVStub(self.channel)
        self.watch = rpc_pb2_grpc.WatchStub(self.channel)
        self.lease = rpc_pb2_grpc.LeaseStub(self.channel)
        self.maintenance = rpc_pb2_grpc.MaintenanceStub(self.channel)


Call = Callable[[Member], Awaitable[T]]


class Endpoints:
    """All members. `moved` is called when the current one changes."""

    def __init__(self, urls: Sequence[str], tls: TLSFiles) -> None:
        if not urls:
            raise ValueError("an etcd cluster has at least one member")
        self.members = [Member(url, tls) for url in urls]
        # API servers spread over the members.
        self._position = random.randrange(len(self.members))
        self.moved: Callable[[], None] | None = None
        self.closed = False

    @property
    def current(self) -> Member:
        return self.members[self._position]

    def leave(self, member: Member, why: str) -> None:
        """Go on with the next member, unless somebody else has moved on from `member` already."""
        if self.closed or member is not self.current or len(self.members) == 1:
            return
        self._position = (self._position + 1) % len(self.members)
        log.warning("etcd member %s failed (%s); going on with %s", member.url, why, self.current.url)
        if self.moved is not None:
            self.moved()

    async def read(self, call: Call[T], *, deadline: float = DEADLINE) -> T:
        """A call that does no harm twice: made until a member answers. Raises StoreTimeoutError and what etcd says."""
        return await self._repeat(call, deadline, again_unknown=True)

    async def write(self, call: Call[T], *, deadline: float = DEADLINE) -> T:
        """A call that is made again only when it surely was not applied.

        Raises UnknownOutcome, StoreTimeoutError when no member could be reached at all, and what etcd says.
        """
        return await self._repeat(call, deadline, again_unknown=False)

    async def _repeat(self, call: Call[T], deadline: float, *, again_unknown: bool) -> T:
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        pause = FIRST_PAUSE
        while True:
            if self.closed:
                raise StoreClosedError("the store is closed")
            member = self.current
            try:
                return await call(member)
            except grpc.aio.AioRpcError as error:
                words = error.details() or error.code().name
                fault = judge(error)
                if isinstance(fault, Exception):
                    raise fault from None
                if concerns_member(error):
                    self.leave(member, words)
                if fault is Fault.UNKNOWN and not again_unknown:
                    raise UnknownOutcome(words) from None
            except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:  # the channel was closed under the call
                raise StoreClosedError("the store is closed") from error
            if loop.time() + pause > end:
                raise StoreTimeoutError(words)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def close(self) -> None:
        self.closed = True
        for member in self.members:
            await member.channel.close()
