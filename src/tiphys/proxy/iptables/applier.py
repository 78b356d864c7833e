"""Keeps the kernel's KUBE- chains equal to `IptablesRules`, through iptables-restore and iptables-save.

One run of iptables-restore a change, which is one transaction a table. At start everything is
written anew without a gap, chains of Services that are gone go with it. When a change is refused
(somebody else changed the chains), everything is written anew. Uses the nftables variant of the
commands where the machine has both.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from typing import Final

from tiphys.base.log import get_logger
from tiphys.base.nft import NftError
from tiphys.proxy.iptables.chains import LISTS, PREFIXES, Site
from tiphys.proxy.iptables.state import FIXED, JUMPS, IptablesRules

log = get_logger(__name__)

LOCK_WAIT: Final = "5"  # seconds to wait for others' iptables; only the legacy variant has a lock
_OURS: Final = frozenset(name for _, name in (*FIXED, *LISTS))


class IptablesApplier:
    """A rules.RuleWriter. Starts processes from the event loop, in whose thread's network namespace they run."""

    def __init__(self, site: Site) -> None:
        self._prefix = "ip6tables" if site.family == "ip6" else "iptables"
        self._whole = True
        self.desired = IptablesRules(site)

    async def start(self) -> bool:
        """As rules.RuleWriter."""
        self._whole = True
        return "KUBE-SERVICES" in (await self._listing())["nat"]

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
            await self._run("restore", "--noflush", "-w", LOCK_WAIT, given=script)
        except NftError as error:
            log.warning("iptables refused an update, writing everything anew: %s", str(error).splitlines()[0])
            await self._write_all()
        self._whole = False
        return True

    async def verify(self) -> bool:
        """As rules.RuleWriter."""
        if self._whole:
            return False
        found = await self._listing()
        ours = {table: {k: n for k, n in chains.items() if _is_ours(k)} for table, chains in found.items()}
        if ours == self.desired.counts() and not await self._missing_jumps():
            return False
        log.warning("the rules of %s were changed by somebody else; writing them anew", self._prefix)
        await self._write_all()
        return True

    async def forget_clients(self, gone: set[str]) -> None:
        """Affinity is looked up by an endpoint's chain, and ends with it."""

    async def clean_up(self) -> None:
        """As rules.RuleWriter."""
        text = await self._run("save")
        script = []
        for table, lines in _tables(text).items():
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
        if script:
            await self._run("restore", "--noflush", "-w", LOCK_WAIT, given="".join(script))

    async def _write_all(self) -> None:
        self._whole = True
        script = self.desired.whole(await self._listing(), await self._missing_jumps())
        await self._run("restore", "--noflush", "-w", LOCK_WAIT, given=script)
        self._whole = False

    async def _missing_jumps(self) -> list[tuple[str, str, str]]:
        tables = _tables(await self._run("save"))
        return [jump for jump in JUMPS if f"-A {jump[1]} {jump[2]}" not in tables.get(jump[0], ())]

    async def _listing(self) -> dict[str, dict[str, int]]:
        """Table → chain → number of rules."""
        found: dict[str, dict[str, int]] = {"nat": {}, "filter": {}}
        for table, lines in _tables(await self._run("save")).items():
            chains = found.setdefault(table, {})
            for line in lines:
                if line.startswith(":"):
                    chains.setdefault(line[1:].split()[0], 0)
                elif line.startswith("-A "):
                    name = line.split()[1]
                    chains[name] = chains.get(name, 0) + 1
        return found

    async def _run(self, what: str, *arguments: str, given: str = "") -> str:
        program = next(
            (each for each in (f"{self._prefix}-nft-{what}", f"{self._prefix}-{what}") if shutil.which(each)), ""
        )
        if not program:
            raise NftError(f"the command {self._prefix}-{what} is missing: proxy mode iptables needs it")
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate(given.encode())
        if process.returncode != 0:
            raise NftError(errors.decode(errors="replace").strip() or f"{program}: exit status {process.returncode}")
        return output.decode()


def _is_ours(chain: str) -> bool:
    return chain in _OURS or chain.startswith(PREFIXES)


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
