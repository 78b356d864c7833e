"""The DNS server: sockets, the choice of the server block, and the life of a query.

A datagram (or a message on a TCP connection) is read; the block whose zone is the longest above
the name is chosen; its plugins are asked in the order of `table`; the answer is encoded and, on
UDP, cut where it does not fit. What fails is answered SERVFAIL, what no block serves REFUSED.

The server of one Corefile is a `_Running`; a changed Corefile makes a new one beside it, which
takes over the sockets' work in one step, so that no query is lost while reloading.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from tiphys.base.clock import Clock, SystemClock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client import Client, Informers
from tiphys.dns.corefile import CorefileError, ServerBlock, parse
from tiphys.dns.datagrams import Datagrams
from tiphys.dns.message import MAX_MESSAGE, REFUSED, SERVFAIL, MessageError, Reply, encode, error_reply, parse_query
from tiphys.dns.plugin import Next, Plugin, Request, Setup, longest_zone
from tiphys.dns.table import PLUGINS

log = get_logger(__name__)

TCP_IDLE: Final = 8.0  # seconds a TCP connection may be silent


@dataclass(slots=True)
class _Block:
    """A server block, built."""

    zones: tuple[str, ...]
    chain: Next


@dataclass(slots=True)
class _Running:
    """The server of one Corefile: port → zone → block."""

    ports: dict[int, dict[str, _Block]] = field(default_factory=dict)
    hosts: dict[int, list[str]] = field(default_factory=dict)  # addresses to bind; empty: all
    setups: list[Setup] = field(default_factory=list)
    ready: list[tuple[str, Callable[[], bool]]] = field(default_factory=list)
    shared: dict[str, object] = field(default_factory=dict)

    def resolve(self, port: int, request: Request) -> Awaitable[Reply]:
        """Ask the block in charge of a name."""
        zones = self.ports[port]
        zone = longest_zone(request.query.name, zones)
        if zone is None:
            return _refuse(request)
        if zone != request.zone:
            request = Request(request.query, request.client, request.transport, zone)
        return zones[zone].chain(request)


def build(
    blocks: Sequence[ServerBlock],
    client: Client | None,
    informers: Informers | None,
    clock: Clock,
    before: _Running | None = None,
) -> _Running:
    """Build every block. Raises CorefileError for a directive or option that is not known."""
    running = _Running(shared={} if before is None else before.shared)
    for block in blocks:
        for port in dict.fromkeys(zone.port for zone in block.zones):
            zones = tuple(zone.name for zone in block.zones if zone.port == port)
            setup = Setup(zones, port, clock, client, informers, ready=running.ready, shared=running.shared)
            chain = _chain(block, setup)
            setup.resolve = partial(running.resolve, port)
            running.setups.append(setup)
            running.hosts.setdefault(port, []).extend(setup.bind)
            for zone in zones:
                if zone in running.ports.setdefault(port, {}):
                    raise CorefileError(f"cannot serve dns://{zone}:{port} - it is already defined")
                running.ports[port][zone] = _Block(zones, chain)
    return running


def _chain(block: ServerBlock, setup: Setup) -> Next:
    for directive in block.directives:
        if directive.name not in PLUGINS:
            raise directive.error(f"Unknown directive '{directive.name}'")
    built = [
        builder(directive, setup)
        for name, builder in PLUGINS.items()
        for directive in block.directives
        if directive.name == name
    ]
    plugins: list[Plugin] = [plugin for plugin in built if plugin is not None]
    following: Next = _refuse
    for plugin in reversed(plugins):
        following = _link(plugin, following)
    return following


def _link(plugin: Plugin, following: Next) -> Next:
    serve = plugin.serve
    return lambda request: serve(request, following)


async def _refuse(request: Request) -> Reply:
    return Reply(REFUSED)


class DnsServer:
    """Serves a Corefile: `config` is its path, or its text.

    `ready` is set when all sockets are open (`addresses` says where; port 0 in the Corefile lets
    the kernel choose). A kubernetes plugin needs `client` and `informers`; `informers.run()` is the
    caller's business. `hosts`: the addresses to listen on where no `bind` says so; empty: all.
    """

    def __init__(
        self,
        config: Path | str,
        client: Client | None = None,
        informers: Informers | None = None,
        *,
        clock: Clock | None = None,
        hosts: Sequence[str] = (),
    ) -> None:
        self._config = config
        self._client = client
        self._informers = informers
        self._clock = clock or SystemClock()
        self._hosts = tuple(hosts)
        self._tasks: Supervised | None = None
        self._text = self._read()
        # Built at once: who starts the server hears of a wrong Corefile before anything else happens.
        self._running = build(parse(self._text, self._name()), client, informers, self._clock)
        self.addresses: list[tuple[str, int]] = []
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled; then go on for the lameduck time and close.

        Raises OSError when a port is taken, LoopError when forwarding leads back here.
        """
        async with Supervised(self._clock) as tasks:
            self._tasks = tasks
            closers: list[Callable[[], None]] = []
            try:
                for port in self._running.ports:
                    for host in self._running.hosts[port] or self._hosts or [""]:
                        closers.extend(await self._listen(host, port))
                self._start(self._running)
                self.ready.set()
                await self._check(self._running)
                await self._follow_config()
            finally:
                lameduck = max((setup.lameduck for setup in self._running.setups), default=0.0)
                if self.ready.is_set() and lameduck:
                    await self._clock.sleep(lameduck)
                for close in closers:
                    close()

    async def answer(self, data: bytes, client: str, transport: str, port: int, limit: int = 0) -> bytes:
        """The answer to a message; empty when it deserves none."""
        try:
            query = parse_query(data)
        except MessageError as error:
            return b"" if error.identifier is None else error_reply(data, error)
        try:
            reply = await self._running.resolve(port, Request(query, client, transport, "."))
        except Exception as error:
            # The errors plugin has said so where it is wanted.
            log.debug("query %s failed: %r", query.name, error)
            reply = Reply(SERVFAIL)
        return encode(query, reply, limit or query.udp_size)

    # --- sockets ---------------------------------------------------------------------------

    async def _listen(self, host: str, port: int) -> list[Callable[[], None]]:
        """Open UDP and TCP on one address (empty: every address of both families)."""
        udp, tcp = _pair(host, port)
        address = udp.getsockname()
        datagrams = Datagrams(udp, lambda data, client: self.answer(data, client, "udp", port))
        server = await asyncio.start_server(lambda r, w: self._converse(r, w, port), sock=tcp)
        self.addresses.append((address[0], address[1]))
        return [datagrams.close, server.close]

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        """Answer the messages of one TCP connection, in order."""
        peer = writer.get_extra_info("peername") or ("", 0)
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE):
                    length = struct.unpack(">H", await reader.readexactly(2))[0]
                    data = await reader.readexactly(length)
                reply = await self.answer(data, peer[0], "tcp", port, MAX_MESSAGE)
                if not reply:
                    return
                writer.write(struct.pack(">H", len(reply)) + reply)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return  # the client is done, or says nothing
        finally:
            writer.close()

    # --- configuration ---------------------------------------------------------------------

    def _start(self, running: _Running) -> None:
        assert self._tasks is not None
        background = {name: work for setup in running.setups for name, work in setup.background.items()}
        for name, work in background.items():
            self._tasks.spawn(work, name=f"dns {name}", restart=True)

    async def _check(self, running: _Running) -> None:
        for setup in running.setups:
            assert setup.resolve is not None
            for check in setup.checks:
                await check(setup.resolve)

    async def _follow_config(self) -> None:
        """Take over a changed Corefile; wait for ever where reload is not wanted."""
        while True:
            interval = max((setup.reload_interval for setup in self._running.setups), default=0.0)
            if not interval or not isinstance(self._config, Path):
                await asyncio.Event().wait()
            await self._clock.sleep(interval)
            try:
                text = self._read()
                if text == self._text:
                    continue
                self._text = text
                blocks = parse(text, self._name())
                made = build(blocks, self._client, self._informers, self._clock, self._running)
            except (CorefileError, OSError) as error:
                log.error("plugin/reload: the old configuration stays, the new one cannot be used: %s", error)
                continue
            if set(made.ports) != set(self._running.ports):
                log.error("plugin/reload: the ports changed, which takes a restart; the old configuration stays")
                continue
            # The servers for health, readiness and metrics keep their sockets, and so their list.
            self._running.ready[:] = made.ready
            made.ready = self._running.ready
            self._running = made
            log.info("plugin/reload: Running configuration changed")

    def _read(self) -> str:
        return self._config.read_text() if isinstance(self._config, Path) else self._config

    def _name(self) -> str:
        return str(self._config) if isinstance(self._config, Path) else "Corefile"


def _pair(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket on one port. With port 0 the kernel chooses, perhaps one that TCP has already."""
    for attempts_left in range(20 if port == 0 else 1, 0, -1):
        udp = _socket(host, port, socket.SOCK_DGRAM)
        try:
            return udp, _socket(host, udp.getsockname()[1], socket.SOCK_STREAM)
        except OSError:
            udp.close()
            if attempts_left == 1:
                raise
    raise AssertionError("not reached")


def _socket(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if not host or ":" in host else socket.AF_INET
    try:
        made = socket.socket(family, kind)
    except OSError:
        family = socket.AF_INET  # a kernel without IPv6
        made = socket.socket(family, kind)
    try:
        made.setblocking(False)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        if family == socket.AF_INET6 and not host:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((host, port))
        if kind == socket.SOCK_STREAM:
            made.listen(512)
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"listen {host or '*'}:{port}: {error.strerror}") from None
    return made
