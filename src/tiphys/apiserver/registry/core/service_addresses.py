"""Cluster IPs: each is an IPAddress object named after it, so that nobody gets one twice.

    IPAddress 10.96.0.10 ── spec.parentRef ──▶ services kube-system/kube-dns

Addresses come from the ServiceCIDRs of the cluster, from the upper band first, which leaves the lower one to those who
ask for an address: https://kubernetes.io/docs/reference/networking/virtual-ips/#ip-address-objects
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from tiphys.apiserver.registry.strategy import Object
from tiphys.machinery.errors import AlreadyExistsError
from tiphys.machinery.formats import IPAddress, IPNetwork
from tiphys.machinery.meta import ObjectName

GUESSES: Final = 16
FAMILY_LABEL: Final = "ipaddress.kubernetes.io/ip-family"
MANAGER_LABEL: Final = "ipaddress.kubernetes.io/managed-by"
MANAGER: Final = "ipallocator.k8s.io"


class AddressBook(Protocol):
    """The IPAddress objects of the cluster."""

    def get(self, address: str) -> Object | None:
        """The object of an address, None when it is free."""

    async def create(self, obj: Object) -> None:
        """Store a new one. Raises AlreadyExistsError and every other refusal of the API."""

    async def delete(self, address: str) -> None:
        """Remove one; nothing happens when there is none."""


class AddressTaken(Exception):
    """The address asked for belongs to another service."""


class AddressOutOfRange(Exception):
    """The address asked for is in no ServiceCIDR, or is its network or broadcast address."""


class AddressesExhausted(Exception):
    """Every address is taken."""


class ClusterAddresses:
    """The cluster IPs that services may have. `networks` answers the ServiceCIDRs in use now."""

    def __init__(self, book: AddressBook, networks: Callable[[], Sequence[IPNetwork]], rng: random.Random) -> None:
        self._book = book
        self._networks = networks
        self._rng = rng

    def families(self) -> list[str]:
        """The families of the cluster, its default first."""
        return list(dict.fromkeys(f"IPv{network.version}" for network in self._networks()))

    def check(self, text: str) -> None:
        """Whether an address could be claimed. Raises AddressOutOfRange, AddressTaken."""
        address = ipaddress.ip_address(text)
        if not any(_usable(address, network) for network in self._networks()):
            raise AddressOutOfRange(text)
        if self._book.get(text) is not None:
            raise AddressTaken(text)

    async def claim(self, text: str, owner: ObjectName) -> None:
        """Take one address. Raises AddressOutOfRange, AddressTaken, StatusError."""
        address = ipaddress.ip_address(text)
        if not any(_usable(address, network) for network in self._networks()):
            raise AddressOutOfRange(text)
        try:
            await self._book.create(address_object(address, owner))
        except AlreadyExistsError:
            raise AddressTaken(text) from None

    async def claim_again(self, text: str, owner: ObjectName) -> None:
        """Claim for a service an address that it has, if nobody has it; whether it is in range no longer matters."""
        if self._book.get(text) is None:
            await self._book.create(address_object(ipaddress.ip_address(text), owner))

    async def claim_any(self, family: str, owner: ObjectName) -> str:
        """Take a free address of a family. Raises AddressesExhausted."""
        for candidate in self._candidates(family):
            try:
                await self.claim(candidate, owner)
            except AddressTaken:
                continue
            return candidate
        raise AddressesExhausted

    def any_free(self, family: str) -> str:
        """A free address that is not taken, for dry runs. Raises AddressesExhausted."""
        for candidate in self._candidates(family):
            return candidate
        raise AddressesExhausted

    async def release(self, addresses: Sequence[str]) -> None:
        """Give addresses back."""
        for text in addresses:
            await self._book.delete(text)

    def _candidates(self, family: str) -> Iterator[str]:
        """Addresses that look free: guesses in the upper band, then all in order, the upper band first."""
        for network in self._networks():
            if f"IPv{network.version}" != family:
                continue
            size = usable_size(network)
            static = min(max(16, size // 16), 256) if size > 16 else 0
            for _ in range(GUESSES if size > static else 0):
                text = str(network.network_address + 1 + self._rng.randrange(static, size))
                if self._book.get(text) is None:
                    yield text
            for offset in (*range(static, min(size, 1 << 16)), *range(static)):
                text = str(network.network_address + 1 + offset)
                if self._book.get(text) is None:
                    yield text


def usable_size(network: IPNetwork) -> int:
    """How many addresses a network has to give: not its own, nor an IPv4 broadcast address."""
    return network.num_addresses - (2 if network.version == 4 else 1)


def _usable(address: IPAddress, network: IPNetwork) -> bool:
    if address.version != network.version or address not in network:
        return False
    if address == network.network_address:
        return False
    return address.version == 6 or address != network.broadcast_address


def address_object(address: IPAddress, owner: ObjectName) -> Object:
    """The IPAddress object that says whose an address is."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": str(address),
            "labels": {FAMILY_LABEL: f"IPv{address.version}", MANAGER_LABEL: MANAGER},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": owner.namespace, "name": owner.name}},
    }
