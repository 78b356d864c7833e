"""What becomes of hints: the four policies of the topology manager. Pure.

| policy | pod is taken | resources are sought |
| none | always | anywhere |
| best-effort | always | where the hints agree best |
| restricted | when what they agree on is preferred | there |
| single-numa-node | when they agree on one node | there |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tiphys.kubelet.topology.hints import Hint, Nodes, merge

POLICIES: Final = ("none", "best-effort", "restricted", "single-numa-node")
SCOPES: Final = ("container", "pod")
CLOSEST: Final = "prefer-closest-numa-nodes"
MAX_NODES_OPTION: Final = "max-allowable-numa-nodes"
MAX_NODES: Final = 8  # 2^8 sets of nodes for each resource are still quick


class PolicyError(ValueError):
    """The configuration cannot be used on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyPolicy:
    """One configured policy for a machine of these NUMA nodes."""

    name: str
    nodes: Nodes
    scope: str = "container"
    distances: Mapping[int, tuple[int, ...]] | None = field(default=None)

    def decide(self, resources: Sequence[Sequence[Hint]]) -> tuple[Nodes | None, bool]:
        """(where to allocate, None anywhere; whether the pod is taken)."""
        if self.name == "none" or not resources:
            return None, True
        if self.name == "single-numa-node":
            narrow = [
                [hint for hint in hints if hint.preferred and (hint.nodes is None or len(hint.nodes) == 1)]
                for hints in resources
            ]
            agreed = merge(narrow, self.nodes, self.distances)
        else:
            agreed = merge(resources, self.nodes, self.distances)
        taken = agreed.preferred or self.name == "best-effort"
        return (None if agreed.nodes == self.nodes else agreed.nodes), taken


def make_policy(
    name: str,
    scope: str,
    options: Mapping[str, str],
    nodes: Nodes,
    distances: Mapping[int, tuple[int, ...]],
) -> TopologyPolicy:
    """The policy of a configuration. Raises PolicyError."""
    if name not in POLICIES:
        raise PolicyError(f'unknown policy: "{name}"')
    if scope not in SCOPES:
        raise PolicyError(f'unknown scope: "{scope}"')
    unknown = set(options) - {CLOSEST, MAX_NODES_OPTION}
    if unknown:
        raise PolicyError(f'unknown Topology Manager Policy option: "{min(unknown)}"')
    try:
        most = max(MAX_NODES, int(options.get(MAX_NODES_OPTION, MAX_NODES)))
    except ValueError as error:
        raise PolicyError(f'bad value for option "{MAX_NODES_OPTION}": {error}') from error
    if name != "none" and len(nodes) > most:
        raise PolicyError(f"unsupported on machines with more than {most} NUMA Nodes")
    closest = options.get(CLOSEST, "false") == "true"
    return TopologyPolicy(name=name, scope=scope, nodes=nodes, distances=distances if closest else None)
