"""Keeps the kernel's KUBE- chains equal to `IptablesRules`, through iptables-restore and iptables-save.

One run of iptables-restore a change, which is one transaction a table. At start everything is
written anew without a gap, chains of Services that are gone go with it. When a change is refused
(somebody else changed the chains), everything is written anew. Uses the nftables variant of the
commands where the machine has both.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.base.log import get_logger
from tiphys.base.nft import AsyncNft, NftError
from tiphys.proxy.iptables.chains import LISTS, PREFIXES, Site
from tiphys.proxy.iptables.state import FIXED, JUMPS, IptablesRules

log = get_logger(__name__)

LOCK_WAIT: Final = "5"  # seconds to wait for others' iptables; only the legacy variant has a lock
TABLES: Final = ("nat", "filter")
_OURS: Final = frozenset(name for _, name in (*FIXED, *LISTS))


class IptablesApplier:
    """A rules.RuleWriter. Starts processes from the event loop, in whose thread's network namespace they run."""

    def __init__(self, nft: AsyncNft, site: Site) -> None:
        self._nft = nft
        self._generation = -1
        self._family = site.family
        self._prefix = "ip6tables" if site.family == "ip6" else "iptables"
        self._whole = True
        self.desired = IptablesRules(site)

    async def start(self) -> bool:
        """As rules.RuleWriter."""
        self._whole = True
        return "KUBE-SERVICES" in _counts(_tables(await self._run("save")))["nat"]

    async def apply(self) -> bool:
        """As rules.RuleWriter."""
        if self._whole:
            await self._write_all()
            return True
        script = self.desired.flush()
        if not script:
            return False
        self._whole = True
        try:
            await self._restore(script)
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
        saved = _tables(await self._run("save"))
        found = _counts(saved)
        ours = {table: {k: n for k, n in found[table].items() if _is_ours(k)} for table in ("nat", "filter")}
        if ours == self.desired.counts() and not _missing_jumps(saved):
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
        script = _removal(_tables(await self._run("save")))
        if script:
            await self._restore(script)
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
        saved = _tables(await self._run("save"))
        await self._restore(self.desired.whole(_counts(saved), _missing_jumps(saved)))
        self._whole = False

    async def _restore(self, script: str) -> None:
        await self._run("restore", "--noflush", "-w", LOCK_WAIT, given=script)
        # Counted and not asked for: what somebody else writes, before or meanwhile, `verify` has to see.
        self._generation += script.count("COMMIT\n")

    def _program(self, what: str) -> str:
        """The command to run; empty: the machine has none."""
        names = (f"{self._prefix}-nft-{what}", f"{self._prefix}-{what}")
        return next((each for each in names if shutil.which(each)), "")

    async def _run(self, what: str, *arguments: str, given: str = "") -> str:
        program = self._program(what)
        if not program:
            raise NftError(f"the command {self._prefix}-{what} is missing: proxy mode iptables needs it")
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


def _is_ours(chain: str) -> bool:
    return chain in _OURS or chain.startswith(PREFIXES)


def _removal(tables: Mapping[str, Sequence[str]]) -> str:
    """The input of iptables-restore that removes our chains and the jumps to them; empty: there are none."""
    script = []
    for table, lines in tables.items():
        names = [line[1:].split()[0] for line in lines if line.startswith(":") and _is_ours(line[1:].split()[0])]
        if names:
            own = {f"-A {chain}" for chain in names}
            jumps = [
                f"-D{line[2:]}"
                for line in lines
                if line.startswith("-A ")
                and line.rsplit("-j ", 1)[-1] in names
                and " ".join(line.split()[:2]) not in own
            ]
            body = [*(f":{name} - [0:0]" for name in names), *jumps, *(f"-X {name}" for name in names)]
            script.append("\n".join([f"*{table}", *body, "COMMIT", ""]))
    return "".join(script)


def _comes_with_a_table(entry: Mapping[str, Any]) -> bool:
    """Whether an object of `Nft.list` is the table itself, or a chain of the kernel's that lets everything through."""
    return "table" in entry or entry.get("chain", {}).get("policy") == "accept"


def _tables(saved: str) -> dict[str, list[str]]:
    """Table → lines of iptables-save."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in saved.splitlines():
        if match := re.fullmatch(r"\*(\S+)", line):
            lines = found.setdefault(match[1], [])
        elif line and not line.startswith("#") and line != "COMMIT":
            lines.append(line)
    return found


def _counts(tables: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Table → chain → number of rules."""
    found: dict[str, dict[str, int]] = {"nat": {}, "filter": {}}
    for table, lines in tables.items():
        chains = found.setdefault(table, {})
        for line in lines:
            if line.startswith(":"):
                chains.setdefault(line[1:].split()[0], 0)
            elif line.startswith("-A "):
                name = line.split(" ", 2)[1]
                chains[name] = chains.get(name, 0) + 1
    return found


def _missing_jumps(tables: Mapping[str, Sequence[str]]) -> list[tuple[str, str, str]]:
    return [jump for jump in JUMPS if f"-A {jump[1]} {jump[2]}" not in tables.get(jump[0], ())]
