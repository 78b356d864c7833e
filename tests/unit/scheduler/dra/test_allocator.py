"""The allocator against every possibility, and the amounts of shared devices."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiphys.api.resource.v1 import CapacityRequestPolicy, DeviceClass, DeviceTaint, ResourceClaim, ResourceSlice
from tiphys.machinery.quantity import Quantity, parse_cached
from tiphys.scheduler.dra.allocator import Allocator, Given, rounded
from tiphys.scheduler.dra.inventory import DeviceId, Inventory
from tiphys.scheduler.dra.ledger import Ledger
from tiphys.scheduler.dra.requests import wanted_of
from tiphys.scheduler.dra.selectors import SelectorError, Selectors

CLASS = DeviceClass()
DRIVER = "d.example"


def slice_of(devices: list[dict[str, Any]], **spec: Any) -> ResourceSlice:
    pool = {"name": "pool", "generation": 1, "resourceSliceCount": 1}
    return msgspec.convert(
        {
            "metadata": {"name": "s"},
            "spec": {"driver": DRIVER, "nodeName": "n", "pool": pool, "devices": devices, **spec},
        },
        ResourceSlice,
    )


def claim_of(requests: list[dict[str, Any]], uid: str = "c", **devices: Any) -> ResourceClaim:
    raw = {"metadata": {"name": uid, "uid": uid}, "spec": {"devices": {"requests": requests, **devices}}}
    return msgspec.convert(raw, ResourceClaim)


def allocate(
    slices: list[ResourceSlice], *claims: ResourceClaim, ledger: Ledger | None = None
) -> list[list[Given]] | None:
    inventory = Inventory.of(slices)
    allocator = Allocator(inventory, ledger or Ledger(), Selectors(), inventory.by_node.get("n", []))
    return allocator.allocate([wanted_of(claim, lambda _: CLASS) for claim in claims])


def request(name: str, color: str = "", **more: Any) -> dict[str, Any]:
    expression = f'device.attributes["{DRIVER}"].color == "{color}"'
    selectors = [{"cel": {"expression": expression}}] if color else []
    return {"name": name, "exactly": {"deviceClassName": "c", "selectors": selectors, **more}}


COLORS = st.sampled_from(["red", "blue"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(COLORS, st.integers(1, 2)), max_size=5),
    st.lists(st.tuples(st.sampled_from(["", "red", "blue"]), st.integers(1, 2)), min_size=1, max_size=3),
    st.booleans(),
)
def test_a_way_is_found_exactly_when_there_is_one(
    devices: list[tuple[str, int]], asked: list[tuple[str, int]], matched: bool
) -> None:
    offered = [
        {"name": f"d{n}", "attributes": {"color": {"string": color}, "rack": {"int": rack}}}
        for n, (color, rack) in enumerate(devices)
    ]
    constraints = [{"matchAttribute": f"{DRIVER}/rack"}] if matched else []
    requests = [request(f"r{n}", color, count=count) for n, (color, count) in enumerate(asked)]
    found = allocate([slice_of(offered)], claim_of(requests, constraints=constraints))
    places = [color for color, count in asked for _ in range(count)]
    possible = any(
        all(not color or devices[index][0] == color for color, index in zip(places, order, strict=True))
        and (not matched or len({devices[index][1] for index in order}) == 1)
        for order in permutations(range(len(devices)), len(places))
    )
    assert (found is not None) == possible
    if found is not None:
        names = [each.offer.id.device for each in found[0]]
        assert len(names) == len(set(names)) == len(places)
        for each in found[0]:
            color = {f"r{n}": color for n, (color, _) in enumerate(asked)}[each.ask.name]
            assert not color or each.offer.attributes[f"{DRIVER}/color"] == color


def test_what_is_taken_is_not_given_and_admins_may_look() -> None:
    devices = [{"name": "a"}, {"name": "b"}]
    ledger = Ledger()
    ledger.holders[DeviceId(DRIVER, "pool", "a")] = 1
    found = allocate([slice_of(devices)], claim_of([request("r")]), ledger=ledger)
    assert found is not None and [each.offer.id.device for each in found[0]] == ["b"]
    assert allocate([slice_of(devices)], claim_of([request("r", count=2)]), ledger=ledger) is None
    watched = allocate(
        [slice_of(devices)], claim_of([request("r", allocationMode="All", adminAccess=True)]), ledger=ledger
    )
    assert watched is not None and len(watched[0]) == 2
    # Two claims of one pod do not get the same.
    both = allocate([slice_of(devices)], claim_of([request("r")], "c1"), claim_of([request("r")], "c2"))
    assert both is not None and both[0][0].offer.id != both[1][0].offer.id


def test_taints_incomplete_pools_and_failing_expressions() -> None:
    taint = {"key": "k", "value": "v", "effect": "NoSchedule"}
    tainted = slice_of([{"name": "a", "taints": [taint]}])
    assert msgspec.convert(taint, DeviceTaint).effect == "NoSchedule"
    assert allocate([tainted], claim_of([request("r")])) is None
    tolerations = [{"key": "k", "operator": "Exists"}]
    assert allocate([tainted], claim_of([request("r", tolerations=tolerations)])) is not None
    partial = slice_of([{"name": "a"}], pool={"name": "pool", "generation": 1, "resourceSliceCount": 2})
    assert allocate([partial], claim_of([request("r")])) is None
    with pytest.raises(SelectorError, match="no such key: color"):
        allocate([slice_of([{"name": "a"}])], claim_of([request("r", "red")]))
    foreign = {"name": "r", "exactly": {"deviceClassName": "c", "selectors": [{"cel": {"expression": EMPTY}}]}}
    assert allocate([slice_of([{"name": "a"}])], claim_of([foreign])) is not None


EMPTY = '!has(device.attributes["nobody.example"].x)'


def test_distinct_attributes_and_shared_devices() -> None:
    racks = [{"name": f"d{n}", "attributes": {"rack": {"int": n // 2}}} for n in range(4)]
    distinct = claim_of([request("r", count=2)], constraints=[{"distinctAttribute": f"{DRIVER}/rack"}])
    found = allocate([slice_of(racks)], distinct)
    assert found is not None and {each.offer.attributes[f"{DRIVER}/rack"] for each in found[0]} == {0, 1}
    policy = {"default": "1Gi", "validRange": {"min": "1Gi", "step": "1Gi"}}
    card = {
        "name": "card",
        "allowMultipleAllocations": True,
        "capacity": {"memory": {"value": "4Gi", "requestPolicy": policy}},
    }
    amount = {"requests": {"memory": "1500Mi"}}
    parts = [claim_of([request("r", capacity=amount)], f"c{n}") for n in range(3)]
    two = allocate([slice_of([card])], *parts[:2])
    assert two is not None
    assert [str(each[0].consumed[f"{DRIVER}/memory"]) for each in two if each[0].consumed] == ["2Gi", "2Gi"]
    assert len({each[0].share for each in two}) == 2
    assert allocate([slice_of([card])], *parts) is None


@pytest.mark.parametrize(
    ("asked", "policy", "consumed"),
    [
        (None, None, "10"),
        ("3", None, "3"),
        (None, {"default": "2"}, "2"),
        ("3", {"validValues": ["2", "4", "8"]}, "4"),
        ("9", {"validValues": ["2", "4", "8"]}, None),
        ("3", {"validRange": {"min": "2", "max": "8", "step": "2"}}, "4"),
        ("1", {"validRange": {"min": "2"}}, "2"),
        ("9", {"validRange": {"min": "2", "max": "8"}}, None),
    ],
)
def test_amounts_follow_the_policy(asked: str | None, policy: dict[str, Any] | None, consumed: str | None) -> None:
    found = rounded(
        parse_cached(asked) if asked else None,
        msgspec.convert(policy, CapacityRequestPolicy) if policy else None,
        Quantity.of(10),
    )
    assert (None if found is None else str(found)) == consumed


def test_the_ledger_forgets_what_is_given_back() -> None:
    ledger = Ledger()
    results = [{"request": "r", "driver": DRIVER, "pool": "pool", "device": "a"}]
    held = msgspec.convert(
        {"metadata": {"uid": "c"}, "status": {"allocation": {"devices": {"results": results}}}}, ResourceClaim
    )
    assert held.status.allocation is not None
    ledger.assume("c", held.status.allocation)
    ledger.see(ResourceClaim(metadata=held.metadata))  # an older state: the decision stands
    assert len(ledger.holders) == 1
    for event, _ in product((ledger.see, ledger.see), "x"):
        event(held)
    assert len(ledger.holders) == 1 and not ledger.in_flight
    ledger.see(ResourceClaim(metadata=held.metadata))
    assert not ledger.holders
    assert len(ledger.changes) == 2
