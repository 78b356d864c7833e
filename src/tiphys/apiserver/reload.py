"""Files that are read again when they change: configuration of who may come in, authorities, serving certificates.

Looked at once a second. What cannot be understood is said in the log and in metrics, and the old stays in force.
https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY, Registry
from tiphys.base.tasks import Supervised

log = get_logger(__name__)
INTERVAL: Final = 1.0  # seconds
Stamp = tuple[int, int, int]  # inode, nanoseconds of the last change, size


class Watch:
    """Files that belong together. `changed` gets their contents, and raises ValueError or OSError to refuse them."""

    def __init__(self, name: str, paths: Sequence[Path], changed: Callable[[list[bytes]], None]) -> None:
        self.name = name
        self._paths = tuple(paths)
        self._changed = changed
        self._stamps = self._look()
        self._contents = self._read()

    def _look(self) -> list[Stamp | None]:
        return [_stamp(path) for path in self._paths]

    def _read(self) -> list[bytes]:
        return [path.read_bytes() for path in self._paths]

    def look(self) -> None:
        """Read the files when they may have changed, and pass on what is new in them."""
        stamps = self._look()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            contents = self._read()
            if contents == self._contents:
                return
            self._contents = contents
            self._changed(contents)
            log.info("%s was read again", self.name)
        except (ValueError, OSError) as error:
            log.error("%s has changed but cannot be used: %s", self.name, error)


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class FileReloader:
    """Looks at all watches again and again, between `start` and `stop`."""

    def __init__(self, watches: Sequence[Watch], clock: Clock) -> None:
        self._watches = tuple(watches)
        self._clock = clock
        self._tasks = Supervised(clock)

    async def start(self) -> None:
        """Begin."""
        await self._tasks.__aenter__()
        self._tasks.spawn(self._run, name="file-reloader", restart=True)

    async def stop(self) -> None:
        """End."""
        await self._tasks.__aexit__(None, None, None)

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(INTERVAL)
            for watch in self._watches:
                watch.look()


class ConfigController:
    """A configuration file and its metrics; `kind` is "authentication" or "authorization"."""

    def __init__(
        self,
        kind: str,
        path: Path,
        apply: Callable[[bytes], None],
        clock: Clock,
        registry: Registry = REGISTRY,
    ) -> None:
        """`apply` raises ValueError for a file that cannot be used."""
        self._kind = kind
        self._apply = apply
        self._clock = clock
        self._hash = _hash(path.read_bytes())
        self._counts: dict[str, int] = {}
        self._times: dict[str, float] = {}
        self.watch = Watch(f"{kind} configuration {path}", [path], self._changed)
        self.forget: Callable[[], None] = registry.collector(self._lines)

    def _changed(self, contents: list[bytes]) -> None:
        try:
            self._apply(contents[0])
        except ValueError:
            self._note("failure")
            raise
        self._hash = _hash(contents[0])
        self._note("success")

    def _note(self, status: str) -> None:
        self._counts[status] = self._counts.get(status, 0) + 1
        self._times[status] = self._clock.now().timestamp()

    def _lines(self) -> Iterator[str]:
        prefix, of_server = f"apiserver_{self._kind}_config_controller_", f'apiserver_id_hash="{SERVER_HASH}"'
        name = f"{prefix}automatic_reload_last_timestamp_seconds"
        what = f"{self._kind} configuration split by status and apiserver identity."
        if self._times:
            yield f"# HELP {name} [BETA] Timestamp of the last automatic reload of {what}"
            yield f"# TYPE {name} gauge"
            for status, at in sorted(self._times.items()):
                yield f'{name}{{{of_server},status="{status}"}} {at!r}'
            name = f"{prefix}automatic_reloads_total"
            yield f"# HELP {name} [BETA] Total number of automatic reloads of {what}"
            yield f"# TYPE {name} counter"
            for status, count in sorted(self._counts.items()):
                yield f'{name}{{{of_server},status="{status}"}} {count}'
        name = f"{prefix}last_config_info"
        what = f"{self._kind} configuration with hash as label, split by apiserver identity."
        yield f"# HELP {name} [ALPHA] Information about the last applied {what}"
        yield f"# TYPE {name} gauge"
        yield f'{name}{{{of_server},hash="{self._hash}"}} 1'


def _hash(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


SERVER_HASH: Final = _hash(f"kube-apiserver-{socket.gethostname()}".encode())
