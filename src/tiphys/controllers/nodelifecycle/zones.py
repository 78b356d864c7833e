"""How fast nodes may be tainted for eviction: a zone of which much is down is more likely cut off than dead.

https://kubernetes.io/docs/concepts/architecture/nodes/#rate-limits-on-eviction
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from tiphys.api.core.v1 import Node
from tiphys.controllers.common.context import Options

REGION_LABEL: Final = "topology.kubernetes.io/region"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"


class ZoneState(Enum):
    """What a zone looks like."""

    NORMAL = "Normal"
    PARTIAL = "PartialDisruption"
    FULL = "FullDisruption"


def zone_of(node: Node) -> str:
    """The node's region and zone; "" for a node without either."""
    region, zone = node.metadata.labels.get(REGION_LABEL, ""), node.metadata.labels.get(ZONE_LABEL, "")
    return f"{region}:{zone}" if region or zone else ""


def state_of(ready: Sequence[bool], options: Options) -> ZoneState:
    """The state of a zone, of each of whose nodes it is said whether it is ready."""
    down = ready.count(False)
    if ready and down == len(ready):
        return ZoneState.FULL
    if down > 2 and down / len(ready) >= options.unhealthy_zone_threshold:
        return ZoneState.PARTIAL
    return ZoneState.NORMAL


def rate_of(state: ZoneState, size: int, states: Mapping[str, ZoneState], options: Options) -> float:
    """Nodes a second that may be tainted in a zone of `size` nodes; zero stops it.

    When every zone is fully down, it is us who are cut off: nothing is evicted.
    """
    if states and all(found is ZoneState.FULL for found in states.values()):
        return 0.0
    if state is ZoneState.PARTIAL:
        return options.secondary_node_eviction_rate if size > options.large_cluster_size_threshold else 0.0
    return options.node_eviction_rate


@dataclass(slots=True)
class Limiter:
    """A token bucket of one token."""

    rate: float = 0.0  # tokens a second
    tokens: float = 1.0
    at: float = field(default=0.0)

    def take(self, now: float) -> bool:
        """Whether one may go now."""
        self.tokens = min(1.0, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.rate <= 0 or self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True
