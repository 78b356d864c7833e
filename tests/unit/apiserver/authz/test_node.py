"""The Node authorizer: what a kubelet may read, by table; and the index behind it, over a real watch cache."""

from typing import Any

import orjson
import pytest

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.interface import Attributes, Verdict
from tiphys.apiserver.authz.node import NodeAuthorizer
from tiphys.apiserver.authz.pod_index import PodIndex
from tiphys.apiserver.authz.references import references
from tiphys.apiserver.authz.rules import PolicyRule
from tiphys.apiserver.watchcache.entry import Entry
from tiphys.apiserver.watchcache.kind import KindCache

UID = "00000000-0000-0000-0000-{:012d}"
KUBELET = UserInfo("system:node:n1", groups=("system:nodes", "system:authenticated"))


class Pods:
    """A watch cache of pods, written to as the hub does."""

    def __init__(self) -> None:
        self.revision = 1
        self.parsed = 0
        self.cache = KindCache("/registry/core/pods/", namespaced=True, selectable_fields=self._fields, revision=1)

    def _fields(self, obj: dict[str, Any]) -> dict[str, str]:
        return {"spec.nodeName": obj["spec"].get("nodeName", "")}

    def put(self, name: str, node: str = "n1", generation: int = 1, number: int = 1, **spec: Any) -> None:
        self.revision += 1
        metadata = {"name": name, "namespace": "d", "uid": UID.format(number), "generation": generation}
        obj = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"nodeName": node, **spec}}
        entry = Entry(f"d/{name}", "d", name, orjson.dumps(obj), self.revision, 1)
        entry.describe({}, self._fields(obj))
        self.cache.put(entry)

    def remove(self, name: str) -> None:
        self.revision += 1
        self.cache.remove(f"d/{name}", self.revision)


SECRET: dict[str, Any] = {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}
CLAIM: dict[str, Any] = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}
OBJECTS: dict[tuple[str, str, str], Any] = {
    ("persistentvolumeclaims", "d", "c"): {"spec": {"volumeName": "pv"}},
    ("persistentvolumes", "", "pv"): {"spec": {"csi": {"nodeStageSecretRef": {"namespace": "k", "name": "stage"}}}},
    ("volumeattachments", "", "mine"): {"spec": {"nodeName": "n1"}},
    ("volumeattachments", "", "theirs"): {"spec": {"nodeName": "n2"}},
    ("resourceslices", "", "mine"): {"spec": {"nodeName": "n1"}},
    ("resourceslices", "", "theirs"): {"spec": {"nodeName": "n2"}},
}


@pytest.fixture
def pods() -> Pods:
    return Pods()


@pytest.fixture
def authorizer(pods: Pods) -> NodeAuthorizer:
    def get(group: str, resource: str, namespace: str, name: str) -> Any:
        return OBJECTS.get((resource, namespace, name))

    rules = [PolicyRule(("get", "list", "watch"), ("",), ("services",)), PolicyRule(("update",), ("",), ("nodes",))]
    return NodeAuthorizer(PodIndex(lambda: pods.cache), get, rules)


def ask(verb: str, resource: str, namespace: str = "", name: str = "", user: UserInfo = KUBELET, **more: str) -> Any:
    group, _, plural = resource.rpartition(":")
    plural, _, sub = plural.partition("/")
    return Attributes(
        user=user,
        verb=verb,
        resource_request=True,
        api_group=group,
        resource=plural,
        subresource=sub,
        namespace=namespace,
        name=name,
        field_selector=more.get("selector", ""),
    )


NONE = "no relationship found between node 'n1' and this object"
TABLE = [
    (ask("get", "secrets", "d", "s"), True, ""),
    (ask("watch", "secrets", "d", "s"), True, ""),
    (ask("get", "secrets", "d", "other"), False, NONE),
    (ask("get", "secrets", "e", "s"), False, NONE),
    (ask("list", "secrets", "d"), False, "No Object name found"),
    (ask("create", "secrets", "d", "s"), False, "can only read resources of this type"),
    (ask("get", "secrets/x", "d", "s"), False, "cannot read subresource"),
    (ask("list", "persistentvolumes"), False, "can only get individual resources of this type"),
    (ask("patch", "persistentvolumeclaims/status", "d", "c"), True, ""),
    (ask("get", "persistentvolumeclaims/status", "d", "c"), False, "can only get/update/patch this type"),
    (ask("get", "secrets", "k", "stage"), True, ""),  # of the volume behind the pod's claim
    (ask("get", "persistentvolumeclaims", "d", "c"), True, ""),
    (ask("get", "persistentvolumes", "", "pv"), True, ""),
    (ask("get", "persistentvolumes", "", "other"), False, NONE),
    (ask("get", "storage.k8s.io:volumeattachments", "", "mine"), True, ""),
    (ask("get", "storage.k8s.io:volumeattachments", "", "theirs"), False, NONE),
    (ask("create", "serviceaccounts/token", "d", "default"), True, ""),
    (ask("create", "serviceaccounts/token", "d", "other"), False, NONE),
    (ask("get", "nodes", "", "n1"), True, ""),
    (ask("get", "nodes", "", "n2"), False, "node 'n1' cannot read 'n2', only its own Node object"),
    (ask("list", "nodes"), False, "node 'n1' cannot read all nodes, only its own Node object"),
    (ask("list", "nodes", name="n1", selector="metadata.name=n1"), True, ""),
    (ask("update", "nodes", "", "n1"), True, ""),
    (ask("create", "resource.k8s.io:resourceslices"), True, ""),
    (ask("delete", "resource.k8s.io:resourceslices", "", "mine"), True, ""),
    (ask("get", "resource.k8s.io:resourceslices", "", "theirs"), False, NONE),
    (ask("list", "resource.k8s.io:resourceslices", selector="spec.nodeName=n1"), True, ""),
    (
        ask("watch", "resource.k8s.io:resourceslices"),
        False,
        "can only list/watch/deletecollection resourceslices with nodeName field selector",
    ),
    (ask("get", "resource.k8s.io:resourceslices/x", "", "mine"), False, "cannot authorize ResourceSlice subresources"),
    (ask("get", "pods", "d", "a"), True, ""),
    (ask("get", "pods", "d", "x"), False, NONE),
    (ask("list", "pods", selector="spec.nodeName=n1"), True, ""),
    (
        ask("list", "pods", selector="spec.nodeName=n2"),
        False,
        "can only list/watch pods with spec.nodeName field selector",
    ),
    (ask("watch", "pods", selector="((("), False, "can only list/watch pods with spec.nodeName field selector"),
    (ask("get", "coordination.k8s.io:leases", "kube-node-lease", "n1"), True, ""),
    (
        ask("get", "coordination.k8s.io:leases", "kube-node-lease", "n2"),
        False,
        "can only access node lease with the same name as the requesting node",
    ),
    (
        ask("get", "coordination.k8s.io:leases", "d", "n1"),
        False,
        'can only access leases in the "kube-node-lease" system namespace',
    ),
    (ask("list", "services"), True, ""),
    (ask("delete", "services", "d", "s"), False, ""),
    (ask("get", "secrets", "d", "s", UserInfo("system:node:n1")), False, ""),  # not in the group
    (ask("get", "secrets", "d", "s", UserInfo("alice", groups=("system:nodes",))), False, ""),
]


@pytest.mark.parametrize(("asked", "allowed", "reason"), TABLE)
def test_what_a_kubelet_may(
    pods: Pods, authorizer: NodeAuthorizer, asked: Attributes, allowed: bool, reason: str
) -> None:
    pods.put("a", **SECRET)
    pods.put("b", number=2, **CLAIM)
    decision = authorizer.authorize(asked)
    assert (decision.allowed, decision.reason) == (allowed, reason)
    assert decision.verdict is not Verdict.DENY


def test_the_index_follows_the_pods(pods: Pods) -> None:
    index = PodIndex(lambda: pods.cache)
    assert not index.refers("n1", "secrets", "d", "s")
    pods.put("a", "", **SECRET)  # not scheduled
    assert not index.refers("", "secrets", "d", "s")
    pods.put("a", **SECRET, generation=2)
    pods.put("b", number=2, **SECRET)
    assert index.refers("n1", "secrets", "d", "s")
    pods.remove("a")
    assert index.refers("n1", "secrets", "d", "s")
    pods.put("b", number=2, generation=2)  # an ephemeral change of the spec: no secret any more
    assert not index.refers("n1", "secrets", "d", "s")
    pods.put("b", "n2", number=3, **SECRET)  # deleted and made again on another node
    assert index.refers("n2", "secrets", "d", "s")
    assert not index.refers("n1", "pods", "d", "b")


def test_the_index_survives_a_history_that_is_too_short() -> None:
    pods = Pods()
    pods.cache = KindCache(
        "/registry/core/pods/", namespaced=True, selectable_fields=pods._fields, revision=1, max_events=2
    )
    index = PodIndex(lambda: pods.cache)
    pods.put("gone", number=99, **SECRET)
    assert index.refers("n1", "pods", "d", "gone")
    pods.remove("gone")
    for number in range(5):
        pods.put(f"p{number}", number=number, **SECRET)
    assert not index.refers("n1", "pods", "d", "gone")
    assert sorted(index.all_of("n1", "pods")) == [("d", f"p{number}") for number in range(5)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, ("serviceaccounts", "default")),
        ({"serviceAccountName": "x"}, ("serviceaccounts", "x")),
        ({"imagePullSecrets": [{"name": "pull"}]}, ("secrets", "pull")),
        ({"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "e"}}}]}]}, ("secrets", "e")),
        ({"initContainers": [{"envFrom": [{"configMapRef": {"name": "m"}}]}]}, ("configmaps", "m")),
        ({"volumes": [{"name": "v", "configMap": {"name": "m"}}]}, ("configmaps", "m")),
        ({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "p"}}]}}]}, ("secrets", "p")),
        ({"volumes": [{"name": "v", "csi": {"nodePublishSecretRef": {"name": "c"}}}]}, ("secrets", "c")),
        ({"volumes": [{"name": "v", "azureFile": {"secretName": "z"}}]}, ("secrets", "z")),
        ({"volumes": [{"name": "v", "ephemeral": {}}]}, ("persistentvolumeclaims", "p-v")),
        ({"resourceClaims": [{"name": "r", "resourceClaimName": "rc"}]}, ("resourceclaims", "rc")),
    ],
)
def test_references_of_pods(spec: dict[str, Any], expected: tuple[str, str]) -> None:
    resource, name = expected
    assert (resource, "d", name) in set(references({"metadata": {"name": "p", "namespace": "d"}, "spec": spec}))


def test_references_of_a_pods_status() -> None:
    status = {
        "resourceClaimStatuses": [{"name": "toy", "resourceClaimName": "from-template"}],
        "extendedResourceClaimStatus": {"resourceClaimName": "for-extended-resources", "requestMappings": []},
    }
    found = set(references({"metadata": {"name": "p", "namespace": "d"}, "spec": {}, "status": status}))
    assert found >= {("resourceclaims", "d", "from-template"), ("resourceclaims", "d", "for-extended-resources")}
