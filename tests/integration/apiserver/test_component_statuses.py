"""ComponentStatuses, in both forms kubectl asks for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.integration.apiserver.server import Api

PATH = "/api/v1/componentstatuses"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def leader(name: str, renewed: datetime) -> dict[str, Any]:
    spec = {
        "holderIdentity": "x",
        "leaseDurationSeconds": 15,
        "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}


async def test_components_are_healthy_while_their_leaders_renew(api: Api) -> None:
    await api.post("/api/v1/namespaces", {"metadata": {"name": "kube-system"}})
    leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
    await api.post(leases, leader("kube-scheduler", datetime.now(UTC)))
    await api.post(leases, leader("kube-controller-manager", datetime(2024, 1, 1, tzinfo=UTC)))
    table = await api.get(PATH, Accept=TABLE)
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Status", "Message", "Error"]
    assert [row["cells"][:2] for row in table["rows"]] == [
        ["controller-manager", "Unhealthy"],
        ["scheduler", "Healthy"],
        ["etcd-0", "Healthy"],
    ]
    listed = await api.get(PATH)
    assert listed["kind"] == "ComponentStatusList"
    assert listed["items"][2]["conditions"] == [{"type": "Healthy", "status": "True", "message": "ok"}]
    assert (await api.get(f"{PATH}/scheduler"))["kind"] == "ComponentStatus"
    assert (await api.get(f"{PATH}/nobody"))["message"] == 'componentstatus "nobody" not found'
