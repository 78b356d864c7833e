"""Nobody gives away more than they have."""

from typing import Any

import pytest

from tests.unit.apiserver.admission.parts import ALICE, Objects, parts, run, write
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.escalation import RoleEscalation
from tiphys.machinery.errors import ForbiddenError, NotFoundError

RBAC = "rbac.authorization.k8s.io"
ROLES = f"{RBAC}/v1/roles"
CLUSTER_ROLES = f"{RBAC}/v1/clusterroles"
BINDINGS = f"{RBAC}/v1/rolebindings"
PODS = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]
ROOT = UserInfo("root", groups=("system:masters",))


def cluster(*rules: dict[str, Any]) -> RoleEscalation:
    """A cluster in which alice has `rules` everywhere, and a ClusterRole `big` exists."""
    objects = Objects()
    objects.add(RBAC, "clusterroles", "hers", rules=list(rules))
    objects.add(RBAC, "clusterroles", "big", rules=PODS)
    objects.add(
        RBAC,
        "clusterrolebindings",
        "b",
        roleRef={"kind": "ClusterRole", "name": "hers"},
        subjects=[{"kind": "User", "name": "alice"}],
    )
    return RoleEscalation(parts(objects))


def role(rules: list[Any], **rest: Any) -> dict[str, Any]:
    return {"metadata": {"name": "r"}, "rules": rules, **rest}


def binding(name: str = "big", kind: str = "ClusterRole") -> dict[str, Any]:
    return {"metadata": {"name": "b"}, "roleRef": {"kind": kind, "name": name}, "subjects": []}


def extra(verb: str, resource: str, *names: str) -> dict[str, Any]:
    return {"apiGroups": [RBAC], "resources": [resource], "verbs": [verb], "resourceNames": list(names)}


async def test_a_role_with_more_than_its_writer_has_is_refused() -> None:
    with pytest.raises(ForbiddenError) as refused:
        await run(cluster(PODS[0] | {"verbs": ["get"]}), write(ROLES, role(PODS)))
    assert refused.value.message == (
        'roles.rbac.authorization.k8s.io "r" is forbidden: user "alice" (groups=["system:authenticated"]) is '
        'attempting to grant RBAC permissions not currently held:\n{APIGroups:[""], Resources:["pods"], Verbs:["list"]}'
    )


@pytest.mark.parametrize(
    ("rules", "user"),
    [
        (PODS, ALICE),
        ([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}], ALICE),
        ([{"apiGroups": [RBAC], "resources": ["roles"], "verbs": ["escalate"]}], ALICE),
        ([], ROOT),
    ],
)
async def test_a_role_may_be_written(rules: list[Any], user: UserInfo) -> None:
    await run(cluster(*rules), write(ROLES, role(PODS), user=user))


async def test_escalation_of_one_role_does_not_help_to_create() -> None:
    allowed = cluster(extra("escalate", "roles", "r"))
    with pytest.raises(ForbiddenError):
        await run(allowed, write(ROLES, role(PODS)))
    await run(allowed, write(ROLES, role(PODS), role([])))


@pytest.mark.parametrize("rules", [PODS, [extra("bind", "clusterroles", "big")]])
async def test_a_role_may_be_bound(rules: list[Any]) -> None:
    await run(cluster(*rules), write(BINDINGS, binding()))


async def test_a_role_may_not_be_bound() -> None:
    with pytest.raises(ForbiddenError, match="is attempting to grant RBAC permissions not currently held"):
        await run(cluster(extra("bind", "clusterroles", "other")), write(BINDINGS, binding()))
    with pytest.raises(NotFoundError, match=r'rolebindings\.rbac\.authorization\.k8s\.io "none" not found'):
        await run(cluster(), write(BINDINGS, binding("none", "Role")))


async def test_the_garbage_collector_may_take_its_marks_away() -> None:
    old = role(PODS, metadata={"name": "r", "finalizers": ["foregroundDeletion"]})
    await run(cluster(), write(ROLES, role(PODS), old))
    with pytest.raises(ForbiddenError):
        await run(cluster(), write(ROLES, role(PODS, metadata={"name": "r", "labels": {"a": "b"}}), old))


async def test_aggregation_needs_everything() -> None:
    gathering = role([], aggregationRule={"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]})
    with pytest.raises(ForbiddenError, match="must have cluster-admin privileges to use the aggregationRule"):
        await run(cluster(*PODS), write(CLUSTER_ROLES, gathering))
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    await run(cluster(everything, {"nonResourceURLs": ["*"], "verbs": ["*"]}), write(CLUSTER_ROLES, gathering))
