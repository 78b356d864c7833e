"""EncryptionKeeper: puts encryption around a store, and keeps to its configuration file.

With --encryption-provider-config-automatic-reload the file is read again when it changes. One that says something wrong
is reported and changes nothing: values go on being sealed as they were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from tiphys.apiserver.configfile import ConfigError
from tiphys.apiserver.encryption.configuration import load, parse
from tiphys.apiserver.encryption.providers import Encryption
from tiphys.apiserver.encryption.sealed import SealedStore
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.store import Store

log = get_logger(__name__)

INTERVAL: Final = 5.0  # seconds; upstream is told by the kernel, and looks once a minute besides


class EncryptionKeeper:
    """`store` seals as the file says. `run` looks for changes of it until cancelled."""

    def __init__(self, store: SealedStore, path: Path, prefix: str, clock: Clock, data: bytes, *, reload: bool) -> None:
        """`data`: what the file said when `store` got its configuration; `reload`: it is read again when it changes."""
        self.store = store
        self._reload = reload
        self._ill = self._problems() != ""  # whether a key service did not answer at the last look
        self._path = path
        self._prefix = prefix
        self._clock = clock
        self._data = data

    @classmethod
    async def open(cls, store: Store, path: Path, prefix: str, clock: Clock, *, reload: bool) -> Self:
        """Seal `store` as the file says; `prefix` begins its keys in etcd, `reload` as above. Raises ConfigError."""
        try:
            data = load(path)
            encryption = Encryption(parse(data, path), prefix)
        except ConfigError:
            await store.close()
            raise
        await encryption.start()
        return cls(SealedStore(store, encryption), path, prefix, clock, data, reload=reload)

    async def check(self) -> str | None:
        """What is wrong with the key services, for the server's health."""
        return self._problems() or None

    def _problems(self) -> str:
        services = self.store.encryption.services.items()
        return ", ".join(f"{name}: {one.problem}" for name, one in services if one.problem)

    async def run(self, changed: Callable[[], None]) -> None:
        """Look again and again; `changed` is called when something may be readable now that was not."""
        while True:
            await self._clock.sleep(INTERVAL)
            if await self.turn():
                changed()

    async def turn(self) -> bool:
        """One look: whether the file says something new (if that is wanted), or a key service answers again."""
        was_ill, self._ill = self._ill, self._problems() != ""
        answers_again = was_ill and not self._ill
        return (self._reload and await self.look()) or answers_again

    async def look(self) -> bool:
        """Read the file; take what it says, if that is new and right: then True."""
        try:
            data = await asyncio.to_thread(self._path.read_bytes)
            if data == self._data:
                return False
            self._data = data
            encryption = Encryption(parse(data, self._path), self._prefix)
        except (ConfigError, OSError) as error:
            log.error("the encryption configuration stays as it was: %s", error)
            return False
        await encryption.start()
        before, self.store.encryption = self.store.encryption, encryption
        await before.close()
        log.info("the encryption configuration was read again")
        return True
