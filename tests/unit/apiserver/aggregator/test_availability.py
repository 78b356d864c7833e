"""Why a server is not available, by table; when the condition is written."""

from typing import Any

import pytest

from tiphys.apiserver.aggregator.apiservices import ServiceReference
from tiphys.apiserver.aggregator.availability import PASSED, Surroundings, Verdict, condition, missing_link, put

API = ServiceReference("ns", "api", 443)
SERVICE = {"ports": [{"name": "https", "port": 443, "targetPort": 8443}]}
NOW = "2026-01-02T00:00:00Z"
BEFORE = "2026-01-01T00:00:00Z"


def part(*addresses: str, ready: bool = True, port: str = "https") -> dict[str, Any]:
    endpoints = [{"addresses": [one], "conditions": {"ready": ready}} for one in addresses]
    return {"ports": [{"name": port, "port": 8443}], "endpoints": endpoints}


NO_ADDRESSES = 'endpointslices for service/api in "ns" have no addresses with port name "https"'


@pytest.mark.parametrize(
    ("around", "reason", "message"),
    [
        (Surroundings(None, []), "ServiceNotFound", 'service/api in "ns" is not present'),
        (
            Surroundings({"ports": [{"port": 80}]}, []),
            "ServicePortError",
            'service/api in "ns" is not listening on port 443',
        ),
        (Surroundings(SERVICE, []), "EndpointsNotFound", 'cannot find endpointslices for service/api in "ns"'),
        (Surroundings(SERVICE, [part()]), "MissingEndpoints", NO_ADDRESSES),
        (Surroundings(SERVICE, [part("10.0.0.1", ready=False)]), "MissingEndpoints", NO_ADDRESSES),
        (Surroundings(SERVICE, [part("10.0.0.1", port="other")]), "MissingEndpoints", NO_ADDRESSES),
        (Surroundings(SERVICE, [part(), part("10.0.0.1")]), "", ""),
        (Surroundings({"type": "ExternalName", "externalName": "x"}, []), "", ""),
    ],
    ids=["no service", "no port", "no slices", "empty slice", "not ready", "other port", "fine", "external name"],
)
def test_missing_link(around: Surroundings, reason: str, message: str) -> None:
    found = missing_link(API, around)
    assert found == (Verdict(False, reason, message) if reason else None)


def test_the_time_of_a_condition_is_of_its_last_change_of_status() -> None:
    obj: dict[str, Any] = {"status": {}}
    refused = Verdict(False, "FailedDiscoveryCheck", "no answer")
    for verdict, now, time in (
        (refused, BEFORE, BEFORE),
        (Verdict(False, "MissingEndpoints", "none"), NOW, BEFORE),
        (PASSED, NOW, NOW),
    ):
        wanted = condition(verdict, obj, now)
        assert wanted is not None
        put(wanted, obj)
        assert wanted["lastTransitionTime"] == time
        assert condition(verdict, obj, "2026-01-03T00:00:00Z") is None  # nothing to write
    assert [one["status"] for one in obj["status"]["conditions"]] == ["True"]


def test_other_conditions_stay() -> None:
    obj = {"status": {"conditions": [{"type": "Other", "status": "True"}]}}
    wanted = condition(PASSED, obj, NOW)
    assert wanted is not None
    put(wanted, obj)
    assert [one["type"] for one in obj["status"]["conditions"]] == ["Other", "Available"]
