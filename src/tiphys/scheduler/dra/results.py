"""The allocation as it is written into a claim's status."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from tiphys.api.core.v1 import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from tiphys.api.resource.v1 import (
    AllocationResult,
    DeviceAllocationConfiguration,
    DeviceAllocationResult,
    DeviceClass,
    DeviceRequestAllocationResult,
    ResourceClaim,
)
from tiphys.scheduler.dra.allocator import Given
from tiphys.scheduler.dra.inventory import Offer


def allocation_of(
    claim: ResourceClaim,
    given: Sequence[Given],
    classes: Callable[[str], DeviceClass | None],
    now: datetime,
    node: str,
) -> AllocationResult:
    """Devices, what drivers are to be told about them, and the nodes that reach them all.

    `node` is the pod's: some devices are of all nodes until they are made ready for one.
    """
    results = tuple(_result(each) for each in given)
    bound = any(each.offer.device.binds_to_node for each in given)
    return AllocationResult(
        devices=DeviceAllocationResult(results=results, config=tuple(_configuration(claim, given, classes))),
        node_selector=_this_node(node) if bound else node_selector(each.offer for each in given),
        allocation_timestamp=now,
    )


def _result(given: Given) -> DeviceRequestAllocationResult:
    offer = given.offer
    return DeviceRequestAllocationResult(
        request=given.ask.name,
        driver=offer.id.driver,
        pool=offer.id.pool,
        device=offer.id.device,
        admin_access=True if given.ask.admin_access else None,
        tolerations=given.ask.tolerations,
        binding_conditions=offer.device.binding_conditions,
        binding_failure_conditions=offer.device.binding_failure_conditions,
        share_id=given.share,
        consumed_capacity={name: str(amount) for name, amount in (given.consumed or {}).items()},
    )


def _configuration(
    claim: ResourceClaim, given: Sequence[Given], classes: Callable[[str], DeviceClass | None]
) -> Iterable[DeviceAllocationConfiguration]:
    """First what the classes say, then the claim: the later goes over the earlier."""
    asks = {each.ask.name: each.ask for each in given}
    for name, ask in asks.items():
        device_class = classes(ask.device_class)
        for said in device_class.spec.config if device_class is not None else ():
            yield DeviceAllocationConfiguration(source="FromClass", requests=(name,), opaque=said.opaque)
    chosen = {*asks, *(ask.request for ask in asks.values())}
    for wish in claim.spec.devices.config if claim.spec.devices is not None else ():
        if not wish.requests or any(name in chosen for name in wish.requests):
            yield DeviceAllocationConfiguration(source="FromClaim", requests=wish.requests, opaque=wish.opaque)


def node_selector(offers: Iterable[Offer]) -> NodeSelector | None:
    """The nodes that reach all of these devices; None: every node does."""
    expressions: list[NodeSelectorRequirement] = []
    fields: list[NodeSelectorRequirement] = []
    for offer in offers:
        if offer.node:
            return _this_node(offer.node)
        # The API allows one term here, so that selectors can be joined.
        for term in offer.selector.node_selector_terms if offer.selector is not None else ():
            expressions += [each for each in term.match_expressions if each not in expressions]
            fields += [each for each in term.match_fields if each not in fields]
    if not expressions and not fields:
        return None
    joined = NodeSelectorTerm(match_expressions=tuple(expressions), match_fields=tuple(fields))
    return NodeSelector(node_selector_terms=(joined,))


def _this_node(name: str) -> NodeSelector:
    named = NodeSelectorRequirement(key="metadata.name", operator="In", values=(name,))
    return NodeSelector(node_selector_terms=(NodeSelectorTerm(match_fields=(named,)),))
