"""The embedded store: asked for its upkeep through the process that has it open, else opened for it.

Snapshots are read from the file itself, beside whoever writes: a server that is killed meanwhile takes nothing away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tiphys
from tiphys.cmd.etcd.target import Standing
from tiphys.store import SQLiteStore, StoreLockedError
from tiphys.store.snapshot import copy_database
from tiphys.store.sqlite.files import DATABASE
from tiphys.store.sqlite.maintenance import ask, do


class Embedded:
    """See `Target`. One member, named by its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @staticmethod
    def is_in(directory: Path) -> bool:
        """Whether there is a store in a directory."""
        return (directory / DATABASE).is_file()

    def statuses(self) -> Sequence[Standing]:
        told = self._do("status")
        names = ("revision", "compacted_revision", "size", "size_in_use", "quota")
        values: dict[str, Any] = {name: told[name] for name in names}
        alarms = tuple(told["alarms"])
        return [Standing(endpoint=str(self.directory), version=tiphys.__version__, alarms=alarms, **values)]

    def compact(self, revision: int) -> int:
        return int(self._do("compact", revision)["compacted_revision"])

    def defragment(self) -> Iterator[str]:
        self._do("defragment")
        yield str(self.directory)

    def alarms(self) -> Sequence[tuple[str, str]]:
        return [(str(self.directory), kind) for kind in self._do("status")["alarms"]]

    def disarm(self) -> Sequence[tuple[str, str]]:
        before = self.alarms()
        self._do("disarm")
        return before

    def save(self, path: Path) -> None:
        copy_database(self.directory / DATABASE, path)

    def _do(self, what: str, revision: int = 0) -> dict[str, Any]:
        answer = ask(self.directory, what, revision)
        if answer is not None:
            return answer
        try:
            return asyncio.run(self._opened(what, revision))
        except StoreLockedError:
            answer = ask(self.directory, what, revision)  # a server that has just started
            if answer is None:
                raise
            return answer

    async def _opened(self, what: str, revision: int) -> dict[str, Any]:
        store = await SQLiteStore.open(self.directory)
        try:
            return await do(store, what, revision)
        finally:
            await store.close()
