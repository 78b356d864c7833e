"""The order of groups and versions, by table; the APIServices of custom resources."""

from typing import Any

import pytest

from tiphys.apiserver.aggregator.apiservices import Registration, ServiceReference, by_priority
from tiphys.apiserver.aggregator.autoregister import managed, registration, wanted


def one(group: str, version: str, minimum: int, priority: int = 10) -> Registration:
    return Registration(
        name=f"{version}.{group}",
        uid="u",
        group=group,
        version=version,
        group_priority=minimum,
        version_priority=priority,
    )


@pytest.mark.parametrize(
    ("registered", "order"),
    [
        ([], []),
        ([one("b", "v1", 10), one("a", "v1", 20)], [("a", ["v1"]), ("b", ["v1"])]),
        ([one("b", "v1", 10), one("a", "v1", 10)], [("a", ["v1"]), ("b", ["v1"])]),
        # The highest minimum of a group's versions counts for all of them.
        ([one("a", "v1", 10), one("b", "v1", 20), one("a", "v2", 30)], [("a", ["v2", "v1"]), ("b", ["v1"])]),
        ([one("a", "v1", 10, 5), one("a", "v2beta1", 10, 9)], [("a", ["v2beta1", "v1"])]),
        (
            [one("a", name, 10) for name in ("v1alpha1", "v10", "v2", "odd", "v1beta1")],
            [("a", ["v10", "v2", "v1beta1", "v1alpha1", "odd"])],
        ),
    ],
    ids=["nothing", "groups", "ties by name", "highest of a group", "versions", "ties of versions"],
)
def test_order(registered: list[Registration], order: list[tuple[str, list[str]]]) -> None:
    assert by_priority(registered) == order


def test_reads_an_apiservice() -> None:
    obj = {
        "metadata": {"name": "v1.g", "uid": "1"},
        "spec": {
            "group": "g",
            "version": "v1",
            "groupPriorityMinimum": 3,
            "versionPriority": 4,
            "caBundle": "Y2E=",
            "service": {"namespace": "ns", "name": "api"},
        },
        "status": {"conditions": [{"type": "Available", "status": "True"}]},
    }
    found = Registration.of(obj)
    assert found.service == ServiceReference("ns", "api", 443)
    assert (found.ca_bundle, found.available, found.path) == ("ca", True, "/apis/g/v1")
    assert found.service.server_name == "api.ns.svc"
    local = Registration.of({"metadata": {"name": "v1.", "uid": "2"}, "spec": {"version": "v1"}})
    assert (local.service, local.available, local.path) == (None, False, "/api/v1")


def test_one_apiservice_for_each_group_and_version_of_custom_resources() -> None:
    def definition(plural: str, **served: bool) -> dict[str, Any]:
        versions = [{"name": name, "served": is_served} for name, is_served in served.items()]
        return {"metadata": {"name": f"{plural}.sea.com"}, "spec": {"group": "sea.com", "versions": versions}}

    found = wanted([definition("boats", v1=True, v1beta1=False), definition("ports", v1=True, v2=True)])
    assert sorted(found) == ["v1.sea.com", "v2.sea.com"]
    assert found["v2.sea.com"] == registration("sea.com", "v2")
    assert managed(found["v1.sea.com"])
    assert not managed({"metadata": {"labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}}})
