"""When devices are ready, and when they never will be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tiphys.api.resource.v1 import ResourceClaim
from tiphys.scheduler.dra.readiness import readiness

ALLOCATED = datetime(2026, 1, 1, tzinfo=UTC)
DEVICE = {"driver": "d", "pool": "p", "device": "one"}


def claim(*conditions: dict[str, Any], device: str = "one", asks: bool = True) -> ResourceClaim:
    rules = {"bindingConditions": ["up", "checked"], "bindingFailureConditions": ["broken"]} if asks else {}
    results = [{"request": "r", **DEVICE, **rules}]
    status = {
        "allocation": {"devices": {"results": results}, "allocationTimestamp": "2026-01-01T00:00:00Z"},
        "devices": [{**DEVICE, "device": device, "conditions": list(conditions)}],
    }
    return msgspec.convert({"metadata": {"name": "c"}, "status": status}, ResourceClaim)


def said(kind: str, status: str = "True") -> dict[str, Any]:
    return {"type": kind, "status": status}


@pytest.mark.parametrize(
    ("told", "seconds", "missing", "failure"),
    [
        pytest.param(claim(asks=False), 0, (), "", id="nothing to wait for"),
        pytest.param(claim(), 0, ("up", "checked"), "", id="nothing said yet"),
        pytest.param(claim(said("up")), 0, ("checked",), "", id="one of two"),
        pytest.param(claim(said("up"), said("checked", "False")), 0, ("checked",), "", id="false is not true"),
        pytest.param(claim(said("up"), said("checked")), 9000, (), "", id="ready, however late"),
        pytest.param(claim(said("up"), said("checked"), device="two"), 0, ("up", "checked"), "", id="another device"),
        pytest.param(claim(said("up"), said("broken")), 0, (), "device d/p/one of claim c failed: broken", id="failed"),
        pytest.param(
            claim(said("up")), 600, ("checked",), "claim c: devices were not ready in time: checked", id="too late"
        ),
        pytest.param(ResourceClaim(), 0, (), "claim  got deallocated in the meantime", id="taken away"),
    ],
)
def test_readiness(told: ResourceClaim, seconds: int, missing: tuple[str, ...], failure: str) -> None:
    found = readiness(told, ALLOCATED + timedelta(seconds=seconds), timedelta(seconds=600))
    assert (found.missing, found.failure) == (missing, failure)
    assert found.is_ready == (not missing and not failure)
