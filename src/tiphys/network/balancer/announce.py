"""Which node answers for an address. Pure: every node comes to the same answer without asking another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from tiphys.api.core.v1 import Node, Service
from tiphys.api.discovery.v1 import EndpointSlice

# https://kubernetes.io/docs/reference/labels-annotations-taints/#node-kubernetes-io-exclude-from-external-load-balancers
EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"


def announcer(address: str, service: Service, nodes: Iterable[Node], slices: Iterable[EndpointSlice]) -> str:
    """The node that answers for a Service's address; empty: none can.

    With externalTrafficPolicy Local it is one that has an endpoint, since no other would let the
    packets pass. When a node comes or goes, only addresses it answers for or takes over move.
    """
    candidates = eligible(service, nodes, slices)
    return max(candidates, key=lambda node: hashlib.blake2s(f"{address} {node}".encode()).digest(), default="")


def eligible(service: Service, nodes: Iterable[Node], slices: Iterable[EndpointSlice]) -> set[str]:
    """The nodes that can answer for a Service's addresses."""
    candidates = {node.metadata.name for node in nodes if _can_announce(node)}
    if service.spec.external_traffic_policy == "Local":
        candidates &= {
            endpoint.node_name or ""
            for piece in slices
            for endpoint in piece.endpoints
            if endpoint.conditions is None or endpoint.conditions.ready is not False
        }
    return candidates


def _can_announce(node: Node) -> bool:
    ready = any(each.type == "Ready" and each.status == "True" for each in node.status.conditions)
    return ready and EXCLUDED not in node.metadata.labels
