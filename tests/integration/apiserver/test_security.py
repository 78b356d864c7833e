"""Who is asking, may they, and what must a write pass: over a real server in this process, TLS and all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apiserver.cluster import Cluster, secured_cluster
from tests.integration.apiserver.server import config_map, pod

RBAC = "/apis/rbac.authorization.k8s.io/v1"
FLOW = "/apis/flowcontrol.apiserver.k8s.io/v1"
MAPS = "/api/v1/namespaces/d/configmaps"
READ_PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with secured_cluster(tmp_path) as found:
        yield found


async def who(cluster: Cluster, **asking: Any) -> tuple[int, Any]:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    return await cluster.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review, **asking)


async def test_everybody_is_somebody(cluster: Cluster) -> None:
    status, review = await who(cluster, context=cluster.context("bob", "ops"))
    user = review["status"]["userInfo"]
    assert (status, user["username"], user["groups"]) == (201, "bob", ["ops", "system:authenticated"])
    status, review = await who(cluster, token="alice-token")
    assert (status, review["status"]["userInfo"]["username"]) == (201, "alice")
    assert (await who(cluster, token="nobody's"))[0] == 401
    status, refused = await who(cluster)
    assert (status, refused["reason"]) == (403, "Forbidden")
    assert 'User "system:anonymous" cannot create resource "selfsubjectreviews"' in refused["message"]
    assert (await cluster.ask("GET", "/healthz/nothing"))[0] == 403


async def test_a_binding_counts_at_once(cluster: Cluster) -> None:
    pods = "/api/v1/namespaces/d/pods"
    status, refused = await cluster.ask("GET", pods, token="alice-token")
    message = 'pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "d"'
    assert (status, refused["message"]) == (403, message)
    role = {"metadata": {"name": "r"}, "rules": [READ_PODS]}
    await cluster.api.post(f"{RBAC}/namespaces/d/roles", role)
    subject = {"kind": "Group", "name": "devs", "apiGroup": "rbac.authorization.k8s.io"}
    reference = {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}
    binding = {"metadata": {"name": "b"}, "roleRef": reference, "subjects": [subject]}
    await cluster.api.post(f"{RBAC}/namespaces/d/rolebindings", binding)
    assert (await cluster.ask("GET", pods, token="alice-token"))[0] == 200
    await cluster.api.delete(f"{RBAC}/namespaces/d/rolebindings/b")
    assert (await cluster.ask("GET", pods, token="alice-token"))[0] == 403


async def test_nobody_grants_more_than_they_have(cluster: Cluster) -> None:
    reference = {"kind": "ClusterRole", "name": "admin", "apiGroup": "rbac.authorization.k8s.io"}
    subject = {"kind": "User", "name": "alice", "apiGroup": "rbac.authorization.k8s.io"}
    keeper = {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["*"]}
    await cluster.api.post(f"{RBAC}/clusterroles", {"metadata": {"name": "keeper"}, "rules": [keeper, READ_PODS]})
    binding = {"metadata": {"name": "keepers"}, "roleRef": reference | {"name": "keeper"}, "subjects": [subject]}
    await cluster.api.post(f"{RBAC}/namespaces/d/rolebindings", binding)
    roles, bindings = f"{RBAC}/namespaces/d/roles", f"{RBAC}/namespaces/d/rolebindings"
    own = {"metadata": {"name": "own"}, "rules": [READ_PODS]}
    assert (await cluster.ask("POST", roles, own, token="alice-token"))[0] == 201
    more = {"metadata": {"name": "more"}, "rules": [{**READ_PODS, "resources": ["secrets"]}]}
    status, refused = await cluster.ask("POST", roles, more, token="alice-token")
    # `*` on roles is `escalate` on roles, too.
    assert status == 201, refused
    big = {"metadata": {"name": "big"}, "roleRef": reference | {"name": "cluster-admin"}, "subjects": [subject]}
    status, refused = await cluster.ask("POST", bindings, big, token="alice-token")
    assert status == 403
    assert refused["message"].startswith(
        'rolebindings.rbac.authorization.k8s.io "big" is forbidden: '
        'user "alice" (groups=["devs" "system:authenticated"])'
    )
    assert '{APIGroups:["*"], Resources:["*"], Verbs:["*"]}' in refused["message"]


async def test_the_token_of_an_account_lives_as_long_as_the_account(cluster: Cluster) -> None:
    await cluster.api.post("/api/v1/namespaces/d/serviceaccounts", {"metadata": {"name": "robot"}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = await cluster.api.post("/api/v1/namespaces/d/serviceaccounts/robot/token", request)
    token = answer["status"]["token"]
    status, review = await who(cluster, token=token)
    assert (status, review["status"]["userInfo"]["username"]) == (201, "system:serviceaccount:d:robot")
    await cluster.api.delete("/api/v1/namespaces/d/serviceaccounts/robot")
    assert (await who(cluster, token=token))[0] == 401


async def test_root_acts_as_others(cluster: Cluster) -> None:
    await cluster.api.get("/api/v1/namespaces/d/pods", Impersonate_User="bob")
    assert cluster.api.status == 403
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    headers = {"Impersonate_User": "bob", "Impersonate_Group": "ops", "Impersonate_Extra_team": "blue"}
    answer = await cluster.api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review, **headers)
    user = answer["status"]["userInfo"]
    assert user == {"username": "bob", "groups": ["ops", "system:authenticated"], "extra": {"team": ["blue"]}}


async def test_a_kubelet_reads_what_its_pods_refer_to(cluster: Cluster) -> None:
    kubelet = cluster.context("system:node:n1", "system:nodes")
    secret = "/api/v1/namespaces/d/secrets/s"
    await cluster.api.post("/api/v1/namespaces/d/secrets", {"metadata": {"name": "s"}})
    assert (await cluster.ask("GET", secret, context=kubelet))[0] == 403
    volumes = [{"name": "v", "secret": {"secretName": "s"}}]
    await cluster.api.post("/api/v1/namespaces/d/pods", pod("p", nodeName="n1", volumes=volumes))
    assert (await cluster.ask("GET", secret, context=kubelet))[0] == 200
    await cluster.api.delete("/api/v1/namespaces/d/pods/p?gracePeriodSeconds=0")
    assert (await cluster.ask("GET", secret, context=kubelet))[0] == 403


async def test_a_quota_is_never_exceeded(cluster: Cluster) -> None:
    quotas = "/api/v1/namespaces/d/resourcequotas"
    await cluster.api.post(quotas, {"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "5"}}})
    counted = {"status": {"hard": {"count/configmaps": "5"}, "used": {"count/configmaps": "0"}}}
    await cluster.api.merge(f"{quotas}/q/status", counted)
    await asyncio.gather(*(cluster.api.post(MAPS, config_map(f"m{number}")) for number in range(20)))
    assert len((await cluster.api.get(MAPS))["items"]) == 5
    found = await cluster.api.get(f"{quotas}/q")
    assert found["status"]["used"] == {"count/configmaps": "5"}


async def test_a_namespace_holds_its_pods_to_a_standard(cluster: Cluster) -> None:
    label = {"pod-security.kubernetes.io/enforce": "baseline"}
    await cluster.api.merge("/api/v1/namespaces/d", {"metadata": {"labels": label}})
    refused = await cluster.api.post("/api/v1/namespaces/d/pods", pod("p", hostPID=True))
    message = 'pods "p" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true)'
    assert (cluster.api.status, refused["message"]) == (403, message)
    await cluster.api.post("/api/v1/namespaces/d/pods", pod("p"))
    assert cluster.api.status == 201


async def dangling(cluster: Cluster, name: str, wanted: str) -> dict[str, Any]:
    """The condition of a flow schema, once it has a status."""
    async with asyncio.timeout(5):
        while True:
            found = await cluster.api.get(f"{FLOW}/flowschemas/{name}")
            for condition in found["status"].get("conditions") or ():
                if condition["status"] == wanted:
                    return dict(condition)
            await asyncio.sleep(0.01)


async def test_flow_schemas_say_whether_their_level_exists(cluster: Cluster) -> None:
    schema = {"metadata": {"name": "mine"}, "spec": {"priorityLevelConfiguration": {"name": "later"}}}
    await cluster.api.post(f"{FLOW}/flowschemas", schema)
    condition = await dangling(cluster, "mine", "True")
    assert condition["reason"] == "NotFound"
    limited = {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}
    await cluster.api.post(f"{FLOW}/prioritylevelconfigurations", {"metadata": {"name": "later"}, "spec": limited})
    condition = await dangling(cluster, "mine", "False")
    assert condition["message"].endswith('named "later" and it exists')
