"""What a mode of the proxy must do: be told service ports and write rules. One implementation a mode."""

from __future__ import annotations

from typing import Protocol

from tiphys.proxy.model import Choice, PortKey, ServicePort


class Wanted(Protocol):
    """The rules there should be; nothing is written before the writer's `apply`."""

    def set_service(self, service: ServicePort, choice: Choice) -> None:
        """Say what one service port is now."""

    def remove_service(self, key: PortKey) -> None:
        """Forget a service port; nothing happens if it is not known."""

    def set_node_ips(self, addresses: tuple[str, ...]) -> None:
        """The addresses on which node ports answer."""

    def set_service_cidrs(self, cidrs: tuple[str, ...]) -> None:
        """The ranges of cluster IPs, none within another; what no service takes of them must not leave the node."""


class RuleWriter(Protocol):
    """One address family's rules in the kernel. `start` first, then `apply` after every change of `desired`.

    Everything raises base.nft.NftError when the kernel refuses; then nothing, or a whole table, was written.
    """

    @property
    def desired(self) -> Wanted: ...

    async def start(self) -> bool:
        """Find what an earlier run left; True when there is something. It stays until the first `apply`."""

    async def apply(self) -> bool:
        """Write what changed. True when there was anything to write."""

    async def sweep(self) -> bool:
        """Remove what was kept because it might be wanted again soon; True if there was anything."""

    async def verify(self) -> bool:
        """Look whether somebody else changed the rules and repair them; True if repaired."""

    async def forget_clients(self, gone: set[str]) -> None:
        """End the affinity of clients to endpoints ("ip . port") that are gone."""

    async def clean_up(self) -> None:
        """Remove every rule of this mode."""
