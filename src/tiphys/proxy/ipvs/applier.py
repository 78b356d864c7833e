"""Keeps IPVS, the addresses of `kube-ipvs0` and the table beside them equal to `IpvsRules`.

A change goes in the order in which packets find everything they need: new virtual and real servers, addresses,
the table in one transaction; then addresses and servers that go. What an earlier run left is taken over as it is.
When the kernel refuses (somebody changed it), everything is read again and the difference written.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from tiphys.base import netlink
from tiphys.base.log import get_logger
from tiphys.base.netlink import Netlink
from tiphys.base.nft import AsyncNft, NftError
from tiphys.proxy.config import IpvsSettings
from tiphys.proxy.ipvs.kernel import Change, Ipvs, Server
from tiphys.proxy.ipvs.layout import TABLE, Layout
from tiphys.proxy.ipvs.state import IpvsRules, Known

log = get_logger(__name__)

T = TypeVar("T")

DEVICE: Final = "kube-ipvs0"
SYSCTLS: Final = Path("/proc/sys")
# Translations have to be in conntrack, for masquerading; connections to endpoints that are gone end; a client does
# not stay with an endpoint that takes nobody new.
NEEDED: Final = {
    "net/ipv4/vs/conntrack": "1",
    "net/ipv4/vs/expire_nodest_conn": "1",
    "net/ipv4/vs/expire_quiescent_template": "1",
    "net/ipv4/ip_forward": "1",
}
# Nobody is told that this node has the addresses of kube-ipvs0 but who asks for one of the asked interface.
STRICT_ARP: Final = {"net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2"}


class IpvsApplier:
    """A rules.RuleWriter. Its sockets are in the network namespace of the thread that calls `start` or `clean_up`."""

    def __init__(self, nft: AsyncNft, layout: Layout, settings: IpvsSettings) -> None:
        self._nft = nft
        self._layout = layout
        self._settings = settings
        self._version = 6 if layout.family == "ip6" else 4
        self._ipvs: Ipvs | None = None
        self._links: Netlink | None = None
        self._generation = -1
        self._has_table = False
        self._device = 0
        self._bound: frozenset[str] = frozenset()  # addresses kube-ipvs0 has
        self._own: frozenset[str] = frozenset()  # addresses the node has anyway
        self.desired = IpvsRules(layout, settings.scheduler, settings.exclude_cidrs)

    async def start(self) -> bool:
        """As rules.RuleWriter. Raises NftError also where the kernel has no IPVS."""
        ipvs = self._ipvs = self._attempt(lambda: Ipvs(self._version))
        self._links = Netlink()
        await asyncio.to_thread(self._set_sysctls)
        self._attempt(lambda: ipvs.set_timeouts(**self._settings.timeouts()))
        return await self._read()

    async def apply(self) -> bool:
        """As rules.RuleWriter."""
        try:
            return await self._write()
        except NftError as error:
            log.warning("IPVS or nftables refused an update, reading them again: %s", str(error).splitlines()[0])
        await self._read()
        return await self._write()

    async def sweep(self) -> bool:
        """Remove the real servers whose last connection has ended."""
        return await asyncio.to_thread(self._attempt, self._remove_drained)

    async def verify(self) -> bool:
        """As rules.RuleWriter; those whose last connection has ended are removed too."""
        await self.sweep()
        await self._read()
        if not await self._write():
            return False
        log.warning("IPVS or its table %s was changed by somebody else; repaired", self._layout.name)
        return True

    async def forget_clients(self, gone: set[str]) -> None:
        """The kernel ends the affinity to a real server with it."""

    async def clean_up(self) -> None:
        """As rules.RuleWriter. Nothing where the kernel has no IPVS."""
        await self._nft.run(f"add table {self._layout.name}\ndelete table {self._layout.name}\n")
        with Netlink() as links:
            device = links.link(DEVICE)
            if device is None:  # so the mode was never in use here, and the kernel need not load its module
                return
            self._links, self._device = links, device.index
            bound = self._addresses(own=False)
            try:
                ipvs = Ipvs(self._version)
            except OSError:
                return
            try:
                self.desired.adopt({server: Known(manner) for server, manner in ipvs.servers().items()})
                self._attempt(lambda: ipvs.apply(self.desired.changes()[1]))
            finally:
                ipvs.close()
            links.send([netlink.del_address(device.index, self._cidr(each)) for each in bound])
            # The other family's addresses go with its own rules.
            if all(each.cidr.startswith("fe80:") for each in links.addresses(device.index)):
                links.send([netlink.del_link(device.index)])

    # --- reading -----------------------------------------------------------------------------

    async def _read(self) -> bool:
        """Take what the kernel has for what there is; True when there is anything of ours."""
        known = await asyncio.to_thread(self._attempt, self._known)
        self.desired.adopt(known)
        self._bind_device()
        now = await self._nft.generation()
        if now != self._generation:
            found = await self._nft.table(self._layout.family, TABLE)
            self._has_table = self._layout.fingerprint in found.chains
            self.desired.adopt_elements(found.elements if self._has_table else None)
            self._generation = now
        return self._has_table or bool(known)

    def _known(self) -> dict[Server, Known]:
        assert self._ipvs is not None
        known = {server: Known(manner) for server, manner in self._ipvs.servers().items()}
        for server, each in known.items():
            each.weights = {place: real.weight for place, real in self._ipvs.reals(server).items()}
        return known

    def _bind_device(self) -> None:
        """Make kube-ipvs0 where it is missing, and see which addresses it has."""
        assert self._links is not None
        links = self._links
        device = links.link(DEVICE)
        if device is None:
            self._attempt(lambda: links.send([netlink.new_dummy(DEVICE)]))
            device = links.link(DEVICE)
        self._device = device.index if device is not None else 0
        self._bound, self._own = self._addresses(own=False), self._addresses(own=True)

    def _addresses(self, *, own: bool) -> frozenset[str]:
        """The addresses of the family: those of kube-ipvs0 or, `own`, of all other links."""
        assert self._links is not None
        found = (each for each in self._links.addresses() if (each.index != self._device) == own)
        plain = (each.cidr.partition("/")[0] for each in found)
        return frozenset(
            each for each in plain if (":" in each) == (self._version == 6) and not each.startswith("fe80:")
        )

    # --- writing -----------------------------------------------------------------------------

    async def _write(self) -> bool:
        """Bring the kernel to what is wanted; True when there was anything to write."""
        addresses = self.desired.addresses()
        if addresses - self._bound - self._own:
            self._own = self._addresses(own=True)
        wanted = addresses - self._own
        self.desired.set_bound(wanted)
        coming, going = self.desired.changes()
        new, old = wanted - self._bound, self._bound - wanted
        script = ("" if self._has_table else self._layout.create()) + self.desired.script()
        if not (coming or going or new or old or script):
            return False
        await asyncio.to_thread(self._attempt, lambda: self._change(coming, new, frozenset()))
        if script:
            await self._nft.run(script)
            # Counted and not asked for: what somebody else writes, before or meanwhile, has to be seen.
            self._generation += 1
        self._has_table = True
        self.desired.script_applied()
        await asyncio.to_thread(self._attempt, lambda: self._change(going, frozenset(), old))
        self._bound = wanted
        self.desired.applied()
        return True

    def _change(self, changes: list[Change], new: frozenset[str], old: frozenset[str]) -> None:
        assert self._ipvs is not None
        assert self._links is not None
        for each in sorted(old):
            self._links.send([netlink.del_address(self._device, self._cidr(each))])
        self._ipvs.apply(changes)
        for each in sorted(new):
            self._links.send([netlink.new_address(self._device, self._cidr(each))])

    def _cidr(self, address: str) -> str:
        return f"{address}/{32 if self._version == 4 else 128}"

    def _remove_drained(self) -> bool:
        if self._ipvs is None:
            return False
        changes: list[Change] = []
        for server in self.desired.draining():
            changes += self.desired.drained(server, self._ipvs.reals(server))
        self._ipvs.apply(changes)
        return bool(changes)

    def _set_sysctls(self) -> None:
        for name, value in (NEEDED | (STRICT_ARP if self._settings.strict_arp else {})).items():
            file = SYSCTLS / name
            try:
                if file.read_text().strip() != value:
                    file.write_text(value)
            except OSError as error:
                log.warning("%s cannot be set to %s: %s", name.replace("/", "."), value, error.strerror)

    @staticmethod
    def _attempt(work: Callable[[], T]) -> T:
        """The result; what the kernel refuses becomes an NftError, as of every writer of rules."""
        try:
            return work()
        except OSError as error:
            reason = str(error)
            if error.errno == errno.ENOENT and "new virtual server" in reason:
                reason = f"{reason} (has this kernel the scheduler's module?)"
            raise NftError(reason) from error
