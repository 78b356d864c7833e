"""Keeps the kernel's KUBE- chains equal to `IptablesRules`, through iptables-restore.

One run of iptables-restore a change, which is one transaction a table; several where it names thousands of chains.
At start everything is written anew without a gap, chains of Services that are gone go with it. When a change is refused
(somebody else changed the chains), everything is written anew. Uses the nftables variant of the
commands where the machine has both.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tiphys.base.log import get_logger
from tiphys.base.netlink import Netlink
from tiphys.base.nft import NETLINK_NETFILTER, AsyncNft, NftError
from tiphys.proxy.iptables.chains import Site
from tiphys.proxy.iptables.found import TABLES, Found, from_kernel, from_text, is_ours
from tiphys.proxy.iptables.state import JUMPS, IptablesRules, removal, transaction

log = get_logger(__name__)

LOCK_WAIT: Final = "5"  # seconds to wait for others' iptables; only the legacy variant has a lock


class IptablesApplier:
    """A rules.RuleWriter. Starts processes from the event loop, in whose thread's network namespace they run."""

    def __init__(self, nft: AsyncNft, site: Site) -> None:
        self._nft = nft
        self._generation = -1
        self._family = site.family
        self._prefix = "ip6tables" if site.family == "ip6" else "iptables"
        self._whole = True
        self._channel: Netlink | None = None
        self.desired = IptablesRules(site)

    async def start(self) -> bool:
        """As rules.RuleWriter."""
        self._whole = True
        return "KUBE-SERVICES" in (await self._read()).counts["nat"]

    async def apply(self) -> bool:
        """As rules.RuleWriter."""
        if self._whole:
            await self._write_all()
            return True
        scripts = self.desired.flush()
        if not scripts:
            return False
        self._whole = True
        try:
            await self._restore(scripts)
        except NftError as error:
            log.warning("iptables refused an update, writing everything anew: %s", str(error).splitlines()[0])
            await self._write_all()
        self._whole = False
        return True

    async def sweep(self) -> bool:
        """Every chain belongs to one Service and goes with it."""
        return False

    async def verify(self) -> bool:
        """As rules.RuleWriter. Reads the rules only when something in nftables, of which they are a part, changed."""
        now = await self._nft.generation()
        if self._whole or now == self._generation:
            return False
        self._generation = now
        found = await self._read()
        ours = {table: {k: n for k, n in chains.items() if is_ours(k)} for table, chains in found.counts.items()}
        if ours == self.desired.counts() and not _missing_jumps(found):
            return False
        log.warning("the rules of %s were changed by somebody else; writing them anew", self._prefix)
        await self._write_all()
        return True

    async def forget_clients(self, gone: set[str]) -> None:
        """Affinity is looked up by an endpoint's chain, and ends with it."""

    async def clean_up(self) -> None:
        """As rules.RuleWriter. Nothing where the machine has no iptables: the mode was never in use there."""
        if not self._program("save"):
            return
        scripts = await self._removal(await self._read())
        if scripts:
            await self._restore(scripts)
            await self._remove_empty_tables()

    async def _remove_empty_tables(self) -> None:
        """The tables our first rules brought along, unless somebody else has anything in them."""
        for table in TABLES:
            name = f"table {self._family} {table}"
            found = await self._nft.list(name)  # nothing of the legacy variant, which has them elsewhere
            if found and all(_comes_with_a_table(each) for each in found):
                await self._nft.run(f"delete {name}\n")

    async def _write_all(self) -> None:
        self._whole = True
        self._generation = await self._nft.generation()
        found = await self._read()
        await self._restore(self.desired.whole(found.counts, _missing_jumps(found)))
        self._whole = False

    async def _restore(self, scripts: Iterable[str]) -> None:
        for script in scripts:
            await self._run("restore", "--noflush", "-w", LOCK_WAIT, given=script)
            # Counted and not asked for: what somebody else writes, before or meanwhile, `verify` has to see.
            self._generation += script.count("COMMIT\n")

    async def _removal(self, found: Found) -> list[str]:
        """The input of iptables-restore that removes our chains and the jumps to them, as transactions in order."""
        jumps: dict[str, list[str]] = {table: [] for table in TABLES}
        for table, chain in sorted({(table, chain) for table, chain, _ in found.jumps}):
            rules = (await self._run("", "-w", LOCK_WAIT, "-t", table, "-S", chain)).splitlines()
            jumps[table] += [f"-D{rule[2:]}" for rule in rules if is_ours(rule.rpartition("-j ")[2])]
        scripts = []
        for table, chains in found.counts.items():
            ours = [name for name in chains if is_ours(name)]
            scripts += [transaction(table, jumps[table]), *removal(table, ours)]
        return [script for script in scripts if script]

    async def _read(self) -> Found:
        """What there is now."""
        if "-nft-" not in self._program("save"):
            return from_text(await self._run("save"))
        # The socket is kept: closing one makes the kernel wait until everything deleted lately is freed.
        channel = self._channel = self._channel or Netlink(protocol=NETLINK_NETFILTER)
        try:
            return await asyncio.to_thread(from_kernel, channel, self._family)
        except OSError as error:
            raise NftError(f"the kernel did not tell its chains: {error}") from error

    def _program(self, what: str) -> str:
        """The command to run; empty: the machine has none."""
        end = f"-{what}" if what else ""
        names = (f"{self._prefix}-nft{end}", f"{self._prefix}{end}")
        return next((each for each in names if shutil.which(each)), "")

    async def _run(self, what: str, *arguments: str, given: str = "") -> str:
        program = self._program(what)
        if not program:
            name = f"{self._prefix}-{what}" if what else self._prefix
            raise NftError(f"the command {name} is missing: proxy mode iptables needs it")
        # A file and no pipe: a command that ends before it has read everything breaks nothing.
        with os.fdopen(os.memfd_create("iptables"), "w+b") as script:
            script.write(given.encode())
            script.seek(0)
            process = await asyncio.create_subprocess_exec(
                program, *arguments, stdin=script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
        output, errors = await process.communicate()
        if process.returncode != 0:
            raise NftError(errors.decode(errors="replace").strip() or f"{program}: exit status {process.returncode}")
        return output.decode()


def _comes_with_a_table(entry: Mapping[str, Any]) -> bool:
    """Whether an object of `Nft.list` is the table itself, or a chain of the kernel's that lets everything through."""
    return "table" in entry or entry.get("chain", {}).get("policy") == "accept"


def _missing_jumps(found: Found) -> list[tuple[str, str, str]]:
    return [jump for jump in JUMPS if (jump[0], jump[1], jump[2].rpartition("-j ")[2]) not in found.jumps]
