"""What a provider of machines can do for a cluster. A part it does not have is None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tiphys.api.core.v1 import LoadBalancerStatus, Node, Service


class LoadBalancers(Protocol):
    """Load balancers for Services. Every call may be repeated; any exception means: try again later."""

    async def ensure(self, service: Service, nodes: Sequence[Node]) -> LoadBalancerStatus:
        """Make the Service's load balancer, or bring it up to date; returns where it is reached."""

    async def update_nodes(self, service: Service, nodes: Sequence[Node]) -> None:
        """Let an existing load balancer send to these nodes."""

    async def delete(self, service: Service) -> None:
        """Remove it; one that is not there is fine."""


@dataclass(frozen=True, slots=True)
class Route:
    """Packets to `cidr` go to the node."""

    node: str
    cidr: str


class Routes(Protocol):
    """Routes between the nodes of a cluster."""

    async def list(self) -> Sequence[Route]:
        """Those there are, of this cluster."""

    async def create(self, route: Route) -> None:
        """Make one."""

    async def delete(self, route: Route) -> None:
        """Remove one; one that is not there is fine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudProvider:
    """One provider's abilities."""

    name: str
    load_balancers: LoadBalancers | None = None
    routes: Routes | None = None


# A cluster on machines nobody manages: Services of type LoadBalancer stay pending, and routes are the network's.
NO_PROVIDER: Final = CloudProvider(name="none")
