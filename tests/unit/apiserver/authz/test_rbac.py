"""RBAC: bindings of users, groups and service accounts; names; changes; who is told why."""

from typing import Any

import pytest

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.interface import Attributes, Verdict
from tiphys.apiserver.authz.rbac import KINDS, RBACAuthorizer

PODS = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
SECRET = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["mine"]}]
ACCOUNT = "system:serviceaccount:ns:robot"


class Cluster:
    """Roles and bindings in memory; every change makes a new version."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.version = 0
        self.builds = 0
        self.authorizer = RBACAuthorizer(self._list, lambda: (self.version,) * len(KINDS))

    def _list(self, plural: str) -> list[dict[str, Any]]:
        self.builds += plural == "clusterroles"
        return self.objects.get(plural, [])

    def role(self, name: str, rules: list[Any], namespace: str = "") -> None:
        metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
        self.objects.setdefault("roles" if namespace else "clusterroles", []).append(
            {"metadata": metadata, "rules": rules}
        )
        self.version += 1

    def bind(self, name: str, role: str, *subjects: dict[str, str], namespace: str = "", kind: str = "") -> None:
        kind = kind or ("Role" if namespace else "ClusterRole")
        metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
        self.objects.setdefault("rolebindings" if namespace else "clusterrolebindings", []).append(
            {"metadata": metadata, "roleRef": {"kind": kind, "name": role}, "subjects": list(subjects)}
        )
        self.version += 1

    def may(self, user: str, verb: str, resource: str, namespace: str = "", name: str = "", *groups: str) -> str:
        asked = Attributes(
            user=UserInfo(user, groups=groups),
            verb=verb,
            resource_request=True,
            resource=resource,
            namespace=namespace,
            name=name,
        )
        decision = self.authorizer.authorize(asked)
        return decision.reason if decision.verdict is Verdict.ALLOW else ""


def user(name: str) -> dict[str, str]:
    return {"kind": "User", "name": name}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_cluster_binding_holds_everywhere(cluster: Cluster) -> None:
    cluster.role("reader", PODS)
    cluster.bind("readers", "reader", user("alice"), {"kind": "Group", "name": "devs"})
    reason = 'RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to User "alice"'
    assert cluster.may("alice", "get", "pods", "any") == reason
    assert cluster.may("alice", "get", "pods") == reason
    assert cluster.may("bob", "get", "pods", "any", "", "devs").endswith('to Group "devs"')
    assert not cluster.may("bob", "get", "pods", "any")


def test_a_binding_in_a_namespace_holds_there(cluster: Cluster) -> None:
    cluster.role("reader", PODS)
    cluster.role("own", PODS, "ns")
    cluster.bind("a", "reader", user("alice"), namespace="ns", kind="ClusterRole")
    cluster.bind("b", "own", user("bob"), namespace="ns")
    cluster.bind("c", "own", user("carol"), namespace="other")  # the role is in another namespace
    assert 'RoleBinding "a/ns" of ClusterRole "reader"' in cluster.may("alice", "get", "pods", "ns")
    assert not cluster.may("alice", "get", "pods", "other")
    assert not cluster.may("alice", "get", "pods")
    assert cluster.may("bob", "get", "pods", "ns")
    assert not cluster.may("carol", "get", "pods", "other")


@pytest.mark.parametrize(
    ("subject", "allowed"),
    [
        ({"kind": "ServiceAccount", "name": "robot", "namespace": "ns"}, True),
        ({"kind": "ServiceAccount", "name": "robot"}, True),  # the binding's own namespace
        ({"kind": "ServiceAccount", "name": "robot", "namespace": "other"}, False),
        ({"kind": "User", "name": ACCOUNT}, True),
        ({"kind": "Group", "name": "system:serviceaccounts:ns"}, True),
    ],
)
def test_service_accounts(cluster: Cluster, subject: dict[str, str], allowed: bool) -> None:
    cluster.role("own", PODS, "ns")
    cluster.bind("b", "own", subject, namespace="ns")
    assert bool(cluster.may(ACCOUNT, "get", "pods", "ns", "", "system:serviceaccounts:ns")) is allowed


def test_answers_that_depend_on_the_name_are_asked_every_time(cluster: Cluster) -> None:
    cluster.role("one", SECRET)
    cluster.bind("b", "one", user("alice"))
    for _ in range(2):
        assert cluster.may("alice", "get", "secrets", "ns", "mine")
        assert not cluster.may("alice", "get", "secrets", "ns", "other")


def test_remembered_answers_end_with_the_next_change(cluster: Cluster) -> None:
    cluster.role("reader", PODS)
    assert not cluster.may("alice", "get", "pods", "ns")
    cluster.bind("b", "reader", user("alice"))
    assert cluster.may("alice", "get", "pods", "ns")
    cluster.objects["clusterrolebindings"].clear()
    cluster.version += 1
    assert not cluster.may("alice", "get", "pods", "ns")


def test_the_index_is_made_once_a_change(cluster: Cluster) -> None:
    cluster.role("reader", PODS)
    for name in "abc":
        cluster.may(name, "get", "pods")
    assert cluster.builds == 1


def test_a_binding_to_a_role_that_is_not_there_gives_nothing(cluster: Cluster) -> None:
    cluster.bind("b", "missing", user("alice"))
    assert not cluster.may("alice", "get", "pods")
    assert cluster.authorizer.rules_of_role("ClusterRole", "", "missing") is None


def test_rules_of_a_user(cluster: Cluster) -> None:
    cluster.role("reader", PODS)
    cluster.role("own", SECRET, "ns")
    cluster.bind("a", "reader", user("alice"))
    cluster.bind("b", "own", user("alice"), namespace="ns")
    alice = UserInfo("alice")
    assert [rule.resources for rule in cluster.authorizer.rules_for(alice, "ns")] == [("pods",), ("secrets",)]
    assert [rule.resources for rule in cluster.authorizer.rules_for(alice, "")] == [("pods",)]


def test_paths(cluster: Cluster) -> None:
    cluster.role("health", [{"nonResourceURLs": ["/healthz/*"], "verbs": ["get"]}])
    cluster.bind("b", "health", user("alice"))

    def may(path: str) -> bool:
        asked = Attributes(user=UserInfo("alice"), verb="get", resource_request=False, path=path)
        return cluster.authorizer.authorize(asked).allowed

    assert may("/healthz/etcd")
    assert not may("/metrics")
