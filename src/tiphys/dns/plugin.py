"""The contract of a plugin, and what it is built from.

A chain is a list of plugins in the order of `table`. Each is asked with the one after it, and
answers itself, or passes the query on and perhaps gives something else for what comes back. A
plugin never cares what stands above it.

Most queries are answered without waiting, and a task for each would cost more than its answer. So
a query is begun where its datagram was read, and becomes a task when a plugin waits for the first
time. A plugin may wait for anything; one that needs a task for it awaits `in_task` before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tiphys.base.clock import Clock
from tiphys.client import Client, Informers
from tiphys.dns.corefile import Directive
from tiphys.dns.message import Query, Reply


class Request(NamedTuple):
    """A query and where it came from."""

    query: Query
    client: str  # address
    transport: str  # udp or tcp
    zone: str  # of the server block that was chosen

    @property
    def name(self) -> str:
        return self.query.name

    @property
    def type(self) -> int:
        return self.query.type


Next = Callable[[Request], Awaitable[Reply]]


class Plugin(Protocol):
    """One behaviour."""

    async def serve(self, request: Request, following: Next) -> Reply:
        """Answer, or return what `following(request)` answers. Failures are exceptions; the server says SERVFAIL.

        A reply is never changed: the one given may be given to others too.
        """


async def in_task() -> None:
    """Go on in a task, which `asyncio.timeout` and `asyncio.current_task` need; at once where there is one."""
    if asyncio.current_task() is None:
        await asyncio.sleep(0)


@dataclass(slots=True)
class Setup:
    """What a plugin can use while a server block is built, and what it adds to the running server.

    A plugin puts into `background` what shall run as long as the server (restarted when it fails;
    one of a name), into `ready` what must be true before the server is ready, and into `checks`,
    run once after all sockets are open, what may end the server by raising. `ready` and `shared`
    belong to all blocks; what is in `shared` outlives a reload.
    """

    zones: tuple[str, ...]
    port: int
    clock: Clock
    client: Client | None
    informers: Informers | None
    bind: list[str] = field(default_factory=list)
    background: dict[str, Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=dict)
    ready: list[tuple[str, Callable[[], bool]]] = field(default_factory=list)
    shared: dict[str, object] = field(default_factory=dict)
    checks: list[Callable[[Next], Coroutine[Any, Any, None]]] = field(default_factory=list)
    # Asks the whole server, as a client would; set before the first query.
    resolve: Callable[[Request], Awaitable[Reply]] | None = None
    lameduck: float = 0.0  # seconds to go on answering after being told to stop
    reload_interval: float = 0.0  # seconds between looks at the Corefile; 0: never


Builder = Callable[[Directive, Setup], "Plugin | None"]


def in_zone(name: str, zone: str) -> bool:
    """Whether a name is the zone or below it."""
    return zone == "." or name == zone or name.endswith("." + zone)


def longest_zone(name: str, zones: Iterable[str]) -> str | None:
    """The closest zone above a name; None when it is in none of them."""
    best: str | None = None
    for zone in zones:
        # What `in_zone` says, without a call for each zone: this is asked several times a query.
        is_in = zone == "." or name == zone or name.endswith("." + zone)
        if is_in and (best is None or len(zone) > len(best)):
            best = zone
    return best
