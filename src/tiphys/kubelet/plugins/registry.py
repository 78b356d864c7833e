"""Finds plugins by their sockets and hands each to whoever knows its type.

```
 <root>/plugins_registry/x.sock   appears ─► GetInfo ─► handler.register ─► NotifyRegistrationStatus
                                  goes    ─► handler.deregister
```
What failed is tried again with back-off for as long as the socket is there; one that was made anew is
a new plugin. https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
and KEP-595 describe the protocol.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import grpc.aio

from tiphys.api.pluginregistration import api_pb2 as registration
from tiphys.api.pluginregistration import api_pb2_grpc
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.kubelet.inotify import DIRECTORY_CHANGES, Inotify
from tiphys.kubelet.waiting import wait_event

log = get_logger(__name__)

TIMEOUT: Final = 10.0  # seconds for each call to a registering plugin
FIRST_RETRY: Final = 0.5  # seconds, doubles
LONGEST_RETRY: Final = 120.0
LOCAL: Final = (("grpc.enable_http_proxy", 0),)  # proxies of the environment are not for a local socket

Identity = tuple[int, int]  # inode and the time it changed: a socket made anew has another


class RegistrationError(Exception):
    """The plugin cannot be taken as it is; the text is told to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """What a plugin says of itself. `endpoint` is the path of the socket of its own service."""

    type: str
    name: str
    endpoint: str
    versions: tuple[str, ...]


class PluginHandler(Protocol):
    """Takes plugins of one type."""

    async def register(self, plugin: Plugin) -> None:
        """Use the plugin from now on, in place of an earlier one of its name. Raises RegistrationError."""

    async def deregister(self, plugin: Plugin) -> None:
        """The plugin's socket is gone."""


@dataclass(slots=True)
class _Seen:
    """One socket: who it is, the plugin behind it once that is registered, and when to try again otherwise."""

    identity: Identity
    plugin: Plugin | None = None
    try_at: float = 0.0
    pause: float = FIRST_RETRY


class PluginRegistry:
    """The plugins with a socket in `directory`. `handlers`: by the type a plugin says it has."""

    def __init__(self, directory: Path, handlers: Mapping[str, PluginHandler], clock: Clock) -> None:
        self._directory = directory
        self._handlers = handlers
        self._clock = clock
        self._seen: dict[Path, _Seen] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Register what comes and deregister what goes, until cancelled."""
        self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        with Inotify(self._changed.set) as notifier:
            while True:
                self._changed.clear()
                directories, sockets = await asyncio.to_thread(_look, self._directory)
                for directory in directories:
                    try:
                        notifier.watch(directory, DIRECTORY_CHANGES)
                    except FileNotFoundError:
                        self._changed.set()
                await self._reconcile(sockets)
                await wait_event(self._changed, self._clock, self._next_try())

    async def _reconcile(self, sockets: Mapping[Path, Identity]) -> None:
        for path, seen in list(self._seen.items()):
            if sockets.get(path) != seen.identity:
                del self._seen[path]
                if seen.plugin is not None:
                    await self._handlers[seen.plugin.type].deregister(seen.plugin)
        for path, identity in sockets.items():
            self._seen.setdefault(path, _Seen(identity))
        now = self._clock.monotonic()
        due = [(p, seen) for p, seen in self._seen.items() if seen.plugin is None and seen.try_at <= now]
        await asyncio.gather(*(self._try(path, seen) for path, seen in due))

    async def _try(self, path: Path, seen: _Seen) -> None:
        try:
            seen.plugin = await self._register(path)
            log.info("plugin %s (%s) is registered", seen.plugin.name, seen.plugin.type)
        except (RegistrationError, grpc.aio.AioRpcError, OSError) as error:
            said = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
            log.warning("registering the plugin at %s failed: %s", path, said)
            seen.try_at = self._clock.monotonic() + seen.pause
            seen.pause = min(seen.pause * 2, LONGEST_RETRY)

    async def _register(self, path: Path) -> Plugin:
        async with grpc.aio.insecure_channel(f"unix://{path}", options=LOCAL) as channel:
            stub = api_pb2_grpc.RegistrationStub(channel)
            info = await stub.GetInfo(registration.InfoRequest(), timeout=TIMEOUT, wait_for_ready=True)
            plugin = Plugin(
                type=info.type,
                name=info.name,
                endpoint=info.endpoint or str(path),
                versions=tuple(info.supported_versions),
            )
            try:
                handler = self._handlers.get(plugin.type)
                if handler is None:
                    raise RegistrationError(f"no handler registered for plugin type: {plugin.type} at socket {path}")
                await handler.register(plugin)
            except RegistrationError as error:
                await _notify(stub, str(error))
                raise
            await _notify(stub, "")
            return plugin

    def _next_try(self) -> float | None:
        waiting = [seen.try_at for seen in self._seen.values() if seen.plugin is None]
        return max(0.0, min(waiting) - self._clock.monotonic()) if waiting else None


async def _notify(stub: api_pb2_grpc.RegistrationStub, error: str) -> None:
    status = registration.RegistrationStatus(plugin_registered=not error, error=error)
    try:
        await stub.NotifyRegistrationStatus(status, timeout=TIMEOUT)
    except grpc.aio.AioRpcError as problem:
        # Whether it heard does not change what we know of it.
        log.warning("telling a plugin how its registration went failed: %s", problem.details())


def _look(root: Path) -> tuple[list[Path], dict[Path, Identity]]:
    """The directories to watch and the sockets in them. Names that begin with a dot are not finished yet."""
    directories, sockets = [root], {}
    for directory in directories:  # grows while it is walked
        try:
            entries = sorted(directory.iterdir())
        except OSError:
            continue
        for path in entries:
            if path.name.startswith("."):
                continue
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                directories.append(path)
            elif stat.S_ISSOCK(status.st_mode):
                sockets[path] = (status.st_ino, status.st_ctime_ns)
    return directories, sockets
