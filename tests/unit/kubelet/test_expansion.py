"""When the node's part of a growth is due, and what the claim says after it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim
from tiphys.kubelet.volumes.expansion import INFEASIBLE, grown, is_due, marked


def claim(capacity: str, **status: Any) -> PersistentVolumeClaim:
    document = {"metadata": {"name": "c", "namespace": "n"}, "status": {"capacity": {"storage": capacity}, **status}}
    return msgspec.convert(document, PersistentVolumeClaim)


def volume(capacity: str) -> PersistentVolume:
    return msgspec.convert({"spec": {"capacity": {"storage": capacity}}}, PersistentVolume)


@pytest.mark.parametrize(
    ("known", "has", "status", "due"),
    [
        pytest.param("1Gi", "2Gi", {}, True, id="grown"),
        pytest.param("2Gi", "2048Mi", {}, False, id="the same in other words"),
        pytest.param("2Gi", "1Gi", {}, False, id="claims never shrink"),
        pytest.param("1Gi", "2Gi", {"allocatedResourceStatuses": {"storage": INFEASIBLE}}, False, id="given up"),
    ],
)
def test_growth_is_due_while_the_claim_knows_of_less(known: str, has: str, status: dict[str, Any], due: bool) -> None:
    assert is_due(claim(known, **status), volume(has)) is due


def test_a_claim_whose_volume_has_grown_says_its_size_and_nothing_of_the_way_there() -> None:
    under_way = [{"type": "FileSystemResizePending", "status": "True"}, {"type": "Other", "status": "True"}]
    before = claim("1Gi", conditions=under_way, allocatedResourceStatuses={"storage": "NodeResizePending", "x": "y"})
    after = grown(before, "2Gi")
    assert dict(after.capacity) == {"storage": "2Gi"}
    assert [one.type for one in after.conditions] == ["Other"]
    assert dict(after.allocated_resource_statuses) == {"x": "y"}
    assert dict(marked(before, INFEASIBLE).allocated_resource_statuses) == {"storage": INFEASIBLE, "x": "y"}
