"""Who may act as whom for what, and what they are told otherwise: the answers of kube-apiserver v1.36."""

import pytest

from tiphys.apiserver.authn.constrained import act_as
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.interface import Attributes, Decision, Verdict
from tiphys.machinery.errors import ForbiddenError, StatusError

JOE = UserInfo("joe", groups=("devs", "system:authenticated"))
ASKED = Attributes(
    user=JOE, verb="list", resource_request=True, api_version="v1", resource="configmaps", namespace="default"
)
ON = "impersonate-on:user-info:list configmaps"


class May:
    """Allows what is named as `verb resource/name`, or `verb resource`."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed

    def authorize(self, attributes: Attributes) -> Decision:
        what = f"{attributes.verb} {attributes.resource}"
        found = what in self.allowed or f"{what}/{attributes.name}" in self.allowed
        return Decision(Verdict.ALLOW if found else Verdict.NO_OPINION)


@pytest.mark.parametrize(
    ("headers", "allowed", "groups", "constraint"),
    [
        ({"user": "bob"}, (ON, "impersonate:user-info users/bob"), (), "user-info"),
        ({"user": "bob"}, ("impersonate users/bob",), (), ""),
        (
            {"user": "bob", "group": "g"},
            (ON, "impersonate:user-info users", "impersonate:user-info groups/g"),
            ("g",),
            ...,
        ),
        (
            {"user": "system:serviceaccount:default:sa"},
            ("impersonate-on:serviceaccount:list configmaps", "impersonate:serviceaccount serviceaccounts/sa"),
            ("system:serviceaccounts", "system:serviceaccounts:default"),
            "serviceaccount",
        ),
        (
            {"user": "system:node:n1"},
            ("impersonate-on:arbitrary-node:list configmaps", "impersonate:arbitrary-node nodes/n1"),
            ("system:nodes",),
            "arbitrary-node",
        ),
    ],
)
def test_allowed(
    headers: dict[str, str], allowed: tuple[str, ...], groups: tuple[str, ...], constraint: object
) -> None:
    given = {f"impersonate-{key}": value for key, value in headers.items()}
    user, found = act_as(JOE, given, May(*allowed), ASKED)
    assert (user.name, user.groups) == (headers["user"], (*groups, "system:authenticated"))
    assert constraint is ... or found == (f"impersonate:{constraint}" if constraint else "")


CANNOT = (
    'configmaps is forbidden: User "joe" cannot impersonate-on:{}:list resource "configmaps" in API group "" in the '
)


@pytest.mark.parametrize(
    ("headers", "allowed", "message"),
    [
        ({"user": "bob"}, (), CANNOT.format("user-info") + 'namespace "default"'),
        ({"user": "bob"}, ("impersonate:user-info users/bob",), CANNOT.format("user-info") + 'namespace "default"'),
        ({"user": "system:node:n1"}, (), CANNOT.format("arbitrary-node") + 'namespace "default"'),
        ({"user": "system:serviceaccount:default:sa"}, (), CANNOT.format("serviceaccount") + 'namespace "default"'),
        (
            {"user": "bob", "group": "g"},
            (ON, "impersonate:user-info users/bob"),
            (
                'groups.authentication.k8s.io "g" is forbidden: User "joe" cannot impersonate:user-info '
                'resource "groups" in '
                'API group "authentication.k8s.io" at the cluster scope'
            ),
        ),
        (
            {"user": "system:serviceaccount:default:sa", "group": "g"},
            (),
            (
                'serviceaccounts "sa" is forbidden: User "joe" cannot impersonate resource '
                '"serviceaccounts" in API group "" '
                'in the namespace "default"'
            ),
        ),
        (
            {"user": "bob", "extra-foo": "1"},
            (ON, "impersonate:user-info users/bob", "impersonate:user-info userextras"),
            (
                'userextras.authentication.k8s.io is forbidden: User "joe" cannot impersonate:user-info '
                'resource "userextras" in API group "authentication.k8s.io" at the cluster scope: '
                'impersonating an invalid key in extra is not allowed: extra.key: Invalid value: "foo": '
                'must be a domain-prefixed path (such as "acme.io/foo")'
            ),
        ),
    ],
)
def test_refused(headers: dict[str, str], allowed: tuple[str, ...], message: str) -> None:
    given = {f"impersonate-{key}": value for key, value in headers.items()}
    with pytest.raises(ForbiddenError) as refused:
        act_as(JOE, given, May(*allowed), ASKED)
    assert refused.value.message == message


def test_nobody_is_named() -> None:
    with pytest.raises(StatusError) as refused:
        act_as(JOE, {"impersonate-uid": "1", "impersonate-group": "a"}, May(), ASKED)
    shown = '&user.DefaultInfo{Name:"", UID:"1", Groups:[]string{"a"}, Extra:map[string][]string(nil)}'
    assert (refused.value.code, refused.value.message) == (
        400,
        f"requested {shown} without impersonating a user name",
    )
