"""What the second pod of a template is spared changes nothing of what it becomes."""

from __future__ import annotations

import re
from typing import Any

from tests.integration.apiserver.server import PODS, Api, pod

OWN = re.compile(r"\d{4}-\d\d-\d\dT[0-9:]+Z|[0-9a-f-]{36}|kube-api-access-\w{5}")


def common(obj: dict[str, Any]) -> str:
    """The object without what is its own."""
    metadata = {key: value for key, value in obj["metadata"].items() if key not in ("name", "resourceVersion")}
    return OWN.sub("", str({**obj, "metadata": metadata}))


async def test_pods_of_one_template_are_alike(api: Api) -> None:
    body = pod("a", tolerations=[{"operator": "Exists"}], volumes=[{"name": "kube-api-access-abcde", "emptyDir": {}}])
    first = await api.post(PODS, body)
    body["metadata"]["name"] = "b"
    body["spec"]["volumes"][0]["name"] = "kube-api-access-zzzzz"
    second = await api.post(PODS, body)
    assert list(second) == list(first)
    assert common(second) == common(first)
    assert second["spec"]["volumes"][0]["name"] == "kube-api-access-zzzzz"


async def test_an_invalid_pod_is_refused_every_time(api: Api) -> None:
    for _ in range(2):
        assert (await api.post(PODS, pod("a", dnsPolicy="x")))["reason"] == "Invalid"
        assert api.status == 422


async def test_annotations_are_judged_with_a_known_spec(api: Api) -> None:
    await api.post(PODS, pod("a"))
    body = pod("b")
    body["metadata"]["annotations"] = {"-/bad": "x"}
    refused = await api.post(PODS, body)
    assert api.status == 422
    assert "metadata.annotations" in refused["message"]


async def test_a_status_patch_leaves_the_spec_as_it_is(api: Api) -> None:
    created = await api.post(PODS, pod("a", nodeSelector={"b": "1", "a": "2"}))
    await api.call(
        "PATCH",
        f"{PODS}/a/status",
        {"status": {"phase": "Running"}},
        Content_Type="application/strategic-merge-patch+json",
    )
    found = await api.get(f"{PODS}/a")
    assert list(found) == list(created)
    assert str(found["spec"]) == str(created["spec"])
    assert found["status"]["phase"] == "Running"


async def test_unknown_fields_of_a_patch_are_warned_of(api: Api) -> None:
    await api.post(PODS, pod("a"))
    await api.call("PATCH", f"{PODS}/a", {"metadata": {"x": 1}}, Content_Type="application/merge-patch+json")
    assert "unknown field" in api.headers["Warning"]
