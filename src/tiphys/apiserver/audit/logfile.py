"""The log backend: a line an event, in a file that is rotated by size, kept by age and number.

audit.log                                what is written now
audit-2026-01-02T15-04-05.000.log[.gz]   what was written until then
"""

from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from tiphys.apiserver.audit.options import AuditOptions
from tiphys.base.clock import Clock

Object = dict[str, Any]
MEGABYTE: Final = 1024 * 1024
DEFAULT_SIZE: Final = 100  # megabytes
STAMP: Final = "%Y-%m-%dT%H-%M-%S"
_STAMPED: Final = re.compile(r"-(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d)\.(\d{3})$")


class LogFile:
    """Implements `Sink`. Raises OSError when the file cannot be opened."""

    name = "log"

    def __init__(self, options: AuditOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._limit = (options.log_max_size or DEFAULT_SIZE) * MEGABYTE
        self._file: BinaryIO | None = None
        self._size = 0
        self._path = Path(options.log_path)
        if options.log_path != "-":
            self._open()

    async def write(self, events: Sequence[Object]) -> None:
        """See `Sink`. Lines are small and go to the page cache: this does not wait for a disk."""
        line = _legacy if self._options.log_format == "legacy" else _json
        for event in events:
            data = line(event)
            if self._file is None:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
                continue
            if self._size and self._size + len(data) > self._limit:
                self._rotate()
            self._file.write(data)
            self._size += len(data)

    async def close(self) -> None:
        """See `Sink`."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            self._path.touch(mode=0o600)
        self._file = self._path.open("ab", buffering=0)
        self._size = self._path.stat().st_size

    def _rotate(self) -> None:
        assert self._file is not None
        self._file.close()
        now = self._clock.now().astimezone(UTC)
        while True:
            stamp = f"{now:{STAMP}}.{now.microsecond // 1000:03}"
            kept = self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}")
            if not kept.exists() and not kept.with_name(f"{kept.name}.gz").exists():
                break
            now += timedelta(milliseconds=1)
        self._path.rename(kept)
        self._open()
        self._forget()

    def _forget(self) -> None:
        """Compress what is to be compressed, delete what is too old or too much."""
        options = self._options
        kept = sorted(self._backups(), key=lambda found: found[0], reverse=True)
        oldest = self._clock.now() - timedelta(days=options.log_max_age) if options.log_max_age else None
        for number, (moment, path) in enumerate(kept):
            too_many = options.log_max_backups and number >= options.log_max_backups
            if too_many or (oldest is not None and moment < oldest):
                path.unlink(missing_ok=True)
            elif options.log_compress and path.suffix != ".gz":
                packed = path.with_name(f"{path.name}.gz")
                packed.touch(mode=0o600)
                packed.write_bytes(gzip.compress(path.read_bytes()))
                path.unlink()

    def _backups(self) -> list[tuple[datetime, Path]]:
        found = []
        for path in self._path.parent.glob(f"{self._path.stem}-*"):
            name = path.name.removesuffix(".gz").removesuffix(self._path.suffix)
            match = _STAMPED.search(name)
            if match is not None and name[: match.start()] == self._path.stem:
                moment = datetime.strptime(match[1], STAMP).replace(microsecond=int(match[2]) * 1000, tzinfo=UTC)
                found.append((moment, path))
        return found


def _json(event: Object) -> bytes:
    return orjson.dumps(event) + b"\n"


def _legacy(event: Object) -> bytes:
    """The older form: words, for people."""
    user, other = event.get("user") or {}, event.get("impersonatedUser") or {}
    reference, status = event.get("objectRef") or {}, event.get("responseStatus") or {}
    groups = ",".join(f'"{group}"' for group in user.get("groups") or ()) or '"<none>"'
    others = ",".join(f'"{group}"' for group in other.get("groups") or ()) or '"<lookup>"'
    words = [
        f'{event["requestReceivedTimestamp"]} AUDIT: id="{event["auditID"]}"',
        f'stage="{event["stage"]}"',
        f'ip="{(event.get("sourceIPs") or ["<unknown>"])[0]}"',
        f'method="{event["verb"]}"',
        f'user="{user.get("username") or "<none>"}"',
        f"groups={groups}",
        f'as="{other.get("username") or "<self>"}"',
        f"asgroups={others}",
        f'user-agent="{event.get("userAgent", "")}"',
        f'namespace="{reference.get("namespace") or "<none>"}"',
        f'uri="{event["requestURI"]}"',
        f'response="{status.get("code") or "<deferred>"}"',
    ]
    return " ".join(words).encode() + b"\n"
