"""Addresses for pods out of the node's pod CIDR, remembered in files as the host-local plugin does.

One file an address, named by it, holding who has it; made by link(2), which never replaces one,
and removed on release. So an address has one owner whatever is killed when, and after a restart
the directory is the whole truth:

    <directory>/10.244.1.5         {"sandbox": "…", "pod": "default/web-1", "ports": […]}
    <directory>/last_reserved_ip   10.244.1.5

Addresses are given in turn, starting behind the last one, so that one just released rests.
https://www.cni.dev/plugins/current/ipam/host-local/
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tiphys.network.cni.model import Mapping, NetworkError, PortMapping

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LAST = "last_reserved_ip"


@dataclass(frozen=True, slots=True)
class Allocation:
    """Who has an address, and the node ports that lead to it."""

    address: str
    sandbox: str
    pod: str = ""
    ports: tuple[PortMapping, ...] = ()


class AddressPool:
    """The addresses of one CIDR. Not shared between threads; one process a directory."""

    def __init__(self, directory: Path, cidr: str) -> None:
        self.network: Network = ipaddress.ip_network(cidr)
        # Network address, gateway and, in IPv4, broadcast are nobody's.
        self._first = 2
        self._end = min(self.network.num_addresses - (1 if self.network.version == 4 else 0), 1 << 20)
        if self._end - self._first < 1:
            raise NetworkError(f"pod CIDR {cidr} is too small")
        self.gateway = str(self.network[1])
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._owners: dict[str, Allocation] = {}
        self._of_sandbox: dict[str, list[str]] = {}
        self._last = self._first - 1
        self._load()

    def allocate(self, sandbox: str, pod: str = "", ports: Sequence[Mapping] = ()) -> str:
        """An address for a sandbox: the one it has already, or the next free one.

        Raises NetworkError when all are taken.
        """
        for held in self._of_sandbox.get(sandbox, ()):
            return held
        mappings = tuple(
            PortMapping(each.protocol, each.container_port, each.host_port, each.host_ip) for each in ports
        )
        for offset in self._in_turn():
            address = str(self.network[offset])
            if address in self._owners:
                continue
            allocation = Allocation(address, sandbox, pod, mappings)
            if self._write(allocation):
                self._remember(allocation)
                self._last = offset
                return address
        raise NetworkError(f"no IP addresses available in range set: {self.network[2]}-{self.network[self._end - 1]}")

    def of(self, sandbox: str) -> tuple[Allocation, ...]:
        """What a sandbox has."""
        return tuple(self._owners[address] for address in self._of_sandbox.get(sandbox, ()))

    def all(self) -> Collection[Allocation]:
        """Every allocation."""
        return self._owners.values()

    def release(self, sandbox: str) -> tuple[Allocation, ...]:
        """Free the addresses of a sandbox; returns what it had."""
        freed = self.of(sandbox)
        for allocation in freed:
            with suppress(FileNotFoundError):
                (self._directory / allocation.address).unlink()
            del self._owners[allocation.address]
        self._of_sandbox.pop(sandbox, None)
        return freed

    def _in_turn(self) -> Iterator[int]:
        yield from range(self._last + 1, self._end)
        yield from range(self._first, min(self._last + 1, self._end))

    def _write(self, allocation: Allocation) -> bool:
        target = self._directory / allocation.address
        temporary = self._directory / f".{allocation.address}"
        values = asdict(allocation)
        del values["address"]
        temporary.write_text(json.dumps(values))
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        (self._directory / _LAST).write_text(allocation.address)
        return True

    def _remember(self, allocation: Allocation) -> None:
        self._owners[allocation.address] = allocation
        self._of_sandbox.setdefault(allocation.sandbox, []).append(allocation.address)

    def _load(self) -> None:
        for path in self._directory.iterdir():
            if path.name.startswith("."):
                path.unlink(missing_ok=True)
                continue
            try:
                address = ipaddress.ip_address(path.name)
            except ValueError:
                continue
            if address not in self.network:
                continue
            try:
                values = json.loads(path.read_text())
                ports = tuple(PortMapping(**each) for each in values["ports"])
                self._remember(Allocation(path.name, values["sandbox"], values["pod"], ports))
            except (ValueError, KeyError, TypeError):
                # Not ours or damaged: the address stays taken until somebody looks.
                self._remember(Allocation(path.name, ""))
        with suppress(FileNotFoundError, ValueError):
            last = ipaddress.ip_address((self._directory / _LAST).read_text().strip())
            if last in self.network:
                self._last = int(last) - int(self.network.network_address)
