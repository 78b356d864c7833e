"""Keeps the kernel's kube-proxy table equal to `Desired`: one transaction a change, repair when others meddle.

At start a table of the same layout is adopted and only the difference is written; established
connections never notice, since their translation is in conntrack. A table of another layout is
replaced in one transaction. When a transaction is refused (somebody flushed a set), the table is
read again and the difference written; if that fails too, the table is made anew.
"""

from __future__ import annotations

from typing import Final

from tiphys.base.log import get_logger
from tiphys.base.nft import AsyncNft, NftError
from tiphys.proxy.nftables.layout import AFFINITY_MAP, AFFINITY_MAPS, AFFINITY_PORTS_MAP, TABLE, Layout
from tiphys.proxy.nftables.state import Desired

log = get_logger(__name__)

PURGE_CHUNK: Final = 500


class Applier:
    """Writes one family's table. `start` first, then `apply` after every change of `desired`."""

    def __init__(self, nft: AsyncNft, layout: Layout) -> None:
        self._nft = nft
        self._layout = layout
        self._generation = -1
        self.desired = Desired(layout)

    async def start(self) -> bool:
        """Adopt or make the table. True when rules of an earlier run were found and kept."""
        self._generation = await self._nft.generation()
        found = await self._nft.table(self._layout.family, TABLE)
        if self._layout.fingerprint in found.chains:
            self.desired.adopt(found.elements)
            return True
        self.desired.forget_kernel()
        self._pending_create = True
        return False

    _pending_create = False

    async def apply(self) -> bool:
        """Write what changed, in one transaction. True when there was anything to write.

        Raises NftError when even a new table is refused.
        """
        script = self.desired.flush()
        if self._pending_create:
            script = self._layout.create() + script
        if not script:
            return False
        try:
            await self._nft.run(script)
        except NftError as error:
            if self._pending_create:
                raise
            log.warning("nftables refused an update, reading the table again: %s", str(error).splitlines()[0])
            await self._repair()
        self._pending_create = False
        self.desired.applied()
        # Counted and not asked for: what somebody else writes, before or meanwhile, `verify` has to see.
        self._generation += 1
        return True

    async def sweep(self) -> bool:
        """Remove the chains no Service has traffic for any more; True if there were any. Raises NftError."""
        self.desired.drop_unused_classes()
        return await self.apply()

    async def verify(self) -> bool:
        """Look whether somebody else changed nftables since our last write and repair the table; True if repaired."""
        now = await self._nft.generation()
        if now == self._generation:
            return False
        found = await self._nft.table(self._layout.family, TABLE)
        if self._layout.fingerprint not in found.chains:
            log.warning("table %s %s is gone or foreign; making it again", self._layout.family, TABLE)
            await self._recreate()
            repaired = True
        else:
            self.desired.adopt(found.elements)
            script = self.desired.flush()
            if script:
                log.warning("table %s %s was changed by somebody else; repairing it", self._layout.family, TABLE)
                await self._repair()
            self.desired.applied()
            repaired = bool(script)
        self._generation = now + repaired
        return repaired

    async def forget_clients(self, gone: set[str]) -> None:
        """Remove the affinity of clients to endpoints ("ip . port") that are gone."""
        name = f"{self._layout.family} {TABLE}"
        found = (await self._nft.table(self._layout.family, TABLE)).elements
        ports = found.get(AFFINITY_PORTS_MAP, {})
        for key, endpoint in found.get(AFFINITY_MAP, {}).items():
            if (f"{endpoint} . {ports[key]}" if key in ports else endpoint) not in gone:
                continue
            for each in AFFINITY_MAPS[self._layout.family]:
                try:
                    await self._nft.run(f"delete element {name} {each} {{ {key} }}\n")
                except NftError as error:
                    if not error.not_found:  # it timed out meanwhile
                        raise

    async def clean_up(self) -> None:
        """Remove the table and with it every rule of ours."""
        name = f"{self._layout.family} {TABLE}"
        await self._nft.run(f"add table {name}\ndelete table {name}\n")

    async def _repair(self) -> None:
        try:
            found = await self._nft.table(self._layout.family, TABLE)
            if self._layout.fingerprint in found.chains:
                self.desired.adopt(found.elements)
                await self._nft.run(self.desired.flush() or "\n")
                return
        except NftError as error:
            log.warning("the difference was refused too, making the table again: %s", str(error).splitlines()[0])
        await self._recreate()

    async def _recreate(self) -> None:
        self.desired.forget_kernel()
        await self._nft.run(self._layout.create() + self.desired.flush())
        self.desired.applied()
