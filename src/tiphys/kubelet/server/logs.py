"""Reads a container's log as a client asked for it, and follows it.

Following waits for inotify on the file and its directory; a rotated file is read to its end before
the new one is opened.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from tiphys.base.clock import Clock
from tiphys.kubelet.inotify import CREATE, MODIFY, MOVED_TO, Inotify
from tiphys.kubelet.server.logformat import LogLine, parse_line
from tiphys.kubelet.waiting import wait_event
from tiphys.machinery.time import parse_rfc3339

CHUNK: Final = 64 * 1024
TAIL_BLOCK: Final = 64 * 1024
# Whether the container still runs is looked at no less often than this while nothing is written.
LOOK_AGAIN: Final = 1.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """PodLogOptions, with the times made absolute."""

    follow: bool = False
    tail_lines: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    limit_bytes: int | None = None
    stream: str = "All"

    @staticmethod
    def from_query(query: dict[str, list[str]], now: datetime) -> LogOptions:
        """The options of a request. Raises ValueError naming the parameter."""
        since = None
        if text := _one(query, "sinceTime"):
            since = parse_rfc3339(text)
        elif text := _one(query, "sinceSeconds"):
            since = now - timedelta(seconds=_integer("sinceSeconds", text, 1))
        tail, limit = _one(query, "tailLines"), _one(query, "limitBytes")
        return LogOptions(
            follow=_flag(query, "follow"),
            tail_lines=_integer("tailLines", tail, 0) if tail else None,
            since=since,
            timestamps=_flag(query, "timestamps"),
            limit_bytes=_integer("limitBytes", limit, 1) if limit else None,
            stream=_one(query, "stream") or "All",
        )


def _one(query: dict[str, list[str]], name: str) -> str:
    return query.get(name, [""])[0]


def _flag(query: dict[str, list[str]], name: str) -> bool:
    return _one(query, name).lower() in ("true", "1", "t")


def _integer(name: str, text: str, least: int) -> int:
    value = int(text) if text.lstrip("-").isdigit() else least - 1
    if value < least:
        raise ValueError(f"{name}: Invalid value: {text!r}: must be greater than or equal to {least}")
    return value


@dataclass(slots=True)
class _Filter:
    """Turns entries into output bytes, within the limit."""

    options: LogOptions
    left: int | None
    continues: bool = False  # the last entry was partial: no second timestamp inside a line

    def render(self, line: LogLine) -> bytes:
        if self.options.since is not None and _moment(line.time) < self.options.since:
            return b""
        if self.options.stream != "All" and line.stream.decode() != self.options.stream.lower():
            return b""
        text = line.content
        if self.options.timestamps and not self.continues:
            text = line.time + b" " + text
        self.continues = line.partial
        if self.left is not None:
            text = text[: self.left]
            self.left -= len(text)
        return text

    @property
    def full(self) -> bool:
        return self.left is not None and self.left <= 0


def _moment(time: bytes) -> datetime:
    try:
        return parse_rfc3339(time.decode())
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def tail_offset(file: BinaryIO, lines: int) -> int:
    """Where the last `lines` lines of the file begin."""
    end = file.seek(0, os.SEEK_END)
    if lines == 0:
        return end
    position, found = end, 0
    while position > 0:
        begin = max(0, position - TAIL_BLOCK)
        file.seek(begin)
        block = file.read(position - begin)
        if position == end and block.endswith(b"\n"):
            block = block[:-1]
        index = len(block)
        while (index := block.rfind(b"\n", 0, index)) >= 0:
            found += 1
            if found == lines:
                return begin + index + 1
        position = begin
    return 0


async def read_log(
    path: Path, options: LogOptions, clock: Clock, running: Callable[[], bool]
) -> AsyncGenerator[bytes, None]:
    """The log in pieces. With `follow` it goes on until the container has ended (`running()`) and all is read.

    Raises FileNotFoundError when there is no log.
    """
    select = _Filter(options, options.limit_bytes)
    file: BinaryIO = await asyncio.to_thread(_open, path)
    try:
        start = await asyncio.to_thread(tail_offset, file, options.tail_lines) if options.tail_lines is not None else 0
        file.seek(start)
        if not options.follow:
            for piece in _pieces(file, select):
                yield piece
                await asyncio.sleep(0)
            return
        changed = asyncio.Event()
        with Inotify(changed.set) as inotify:
            inotify.watch(path.parent, CREATE | MOVED_TO)
            inotify.watch(path, MODIFY)
            while True:
                changed.clear()
                alive = running()  # asked before reading, so that the last words are not missed
                for piece in _pieces(file, select):
                    yield piece
                if select.full:
                    return
                following = _replacement(path, file)
                if following is not None:
                    file.close()
                    file = following
                    inotify.watch(path, MODIFY)
                    continue
                if not alive:
                    return
                await wait_event(changed, clock, LOOK_AGAIN)
    finally:
        file.close()


def _pieces(file: BinaryIO, select: _Filter) -> Iterator[bytes]:
    """What can be read now, joined to pieces; an unfinished line stays in the file."""
    gathered, size = [], 0
    while not select.full:
        position = file.tell()
        raw = file.readline()
        if not raw.endswith(b"\n"):
            file.seek(position)
            break
        line = parse_line(raw)
        if line is None:
            continue
        text = select.render(line)
        gathered.append(text)
        size += len(text)
        if size >= CHUNK:
            yield b"".join(gathered)
            gathered, size = [], 0
    if size:
        yield b"".join(gathered)


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _replacement(path: Path, file: BinaryIO) -> BinaryIO | None:
    """The file that took the place of a rotated one."""
    try:
        current = path.stat()
    except FileNotFoundError:
        return None
    mine = os.fstat(file.fileno())
    return path.open("rb") if (current.st_dev, current.st_ino) != (mine.st_dev, mine.st_ino) else None
