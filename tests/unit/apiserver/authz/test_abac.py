"""ABAC policies: who they are about, what they allow, and files that cannot be read. Answers are kube-apiserver's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.abac import AbacAuthorizer
from tiphys.apiserver.authz.interface import Attributes
from tiphys.apiserver.configfile import ConfigError

VERSIONED = '{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":%s}'
LINES = (
    "# who may what",
    VERSIONED % '{"user":"alice","namespace":"*","resource":"pods","apiGroup":"*","readonly":true}',
    VERSIONED % '{"user":"bob","group":"g","namespace":"a","resource":"*","apiGroup":"apps"}',
    VERSIONED % '{"group":"g2","nonResourcePath":"/foo/*"}',
    VERSIONED % '{"user":"*","nonResourcePath":"/bar","readonly":true}',
    VERSIONED % '{"nonResourcePath":"/nobody"}',
    "",
    '{"user":"old","resource":"pods"}',
    '{"user":"older","namespace":"x","readonly":true}',
    '{"resource":"everybody"}',
)


@pytest.fixture
def abac(tmp_path: Path) -> AbacAuthorizer:
    file = tmp_path / "policies"
    file.write_text("\n".join(LINES))
    return AbacAuthorizer.from_file(file)


def resource(verb: str, namespace: str, group: str, name: str) -> dict[str, Any]:
    return {"verb": verb, "namespace": namespace, "api_group": group, "resource": name, "resource_request": True}


def path(verb: str, where: str) -> dict[str, Any]:
    return {"verb": verb, "path": where, "resource_request": False}


@pytest.mark.parametrize(
    ("user", "groups", "asked", "allowed"),
    [
        ("alice", (), resource("get", "a", "", "pods"), True),
        ("alice", (), resource("get", "", "apps", "pods"), True),
        ("alice", (), resource("create", "a", "", "pods"), False),
        ("alice", (), path("get", "/bar"), False),
        ("bob", ("g",), resource("create", "a", "apps", "deployments"), True),
        ("bob", ("g",), resource("create", "b", "apps", "deployments"), False),
        ("bob", (), resource("create", "a", "apps", "deployments"), False),
        ("x", ("g",), resource("create", "a", "apps", "deployments"), False),
        ("x", ("g2",), path("post", "/foo/a"), True),
        ("x", ("g2",), path("post", "/foo"), False),
        ("x", ("system:authenticated",), path("get", "/bar"), True),
        ("x", ("system:authenticated",), path("post", "/bar"), False),
        ("x", ("system:authenticated",), path("get", "/nobody"), False),
        ("old", (), resource("delete", "a", "apps", "pods"), True),
        ("old", (), path("get", "/bar"), False),
        ("older", (), resource("get", "x", "apps", "pods"), True),
        ("older", (), resource("get", "y", "apps", "pods"), False),
        ("x", ("system:authenticated",), resource("delete", "y", "", "everybody"), True),
        ("system:anonymous", ("system:unauthenticated",), resource("get", "y", "", "everybody"), False),
    ],
)
def test_policies(
    abac: AbacAuthorizer, user: str, groups: tuple[str, ...], asked: dict[str, Any], allowed: bool
) -> None:
    decision = abac.authorize(Attributes(user=UserInfo(user, groups=groups), **asked))
    assert (decision.allowed, decision.reason) == (allowed, "" if allowed else "No policy matched.")


def test_rules_of_a_user(abac: AbacAuthorizer) -> None:
    found = abac.resolved(UserInfo("alice", groups=("system:authenticated",)), "ns")
    assert not found.incomplete
    assert [rule.to_json() for rule in found.rules] == [
        {"verbs": ["get", "list", "watch"], "apiGroups": ["*"], "resources": ["pods"]},
        {"verbs": ["get", "list", "watch"], "nonResourceURLs": ["/bar"]},
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["everybody"]},
    ]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "policies"
    file.write_text('# a\n\n{"user":"a"}\n{"apiVersion":"x/v1","kind":"Policy"}')
    with pytest.raises(ConfigError, match=r'line 4: .*no kind "Policy" is registered for version "x/v1"'):
        AbacAuthorizer.from_file(file)
    file.write_text('{"a')
    with pytest.raises(ConfigError, match=r"line 1: .*couldn't get version/kind; json parse error"):
        AbacAuthorizer.from_file(file)
