"""The order of authenticators, and acting as somebody else."""

from typing import Any

import pytest

from tests.unit.apiserver.authn.people import Asking
from tiphys.apiserver.authn.chain import AuthenticatorChain, TokenChain
from tiphys.apiserver.authn.impersonation import impersonate
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authn.tokens import InvalidToken
from tiphys.apiserver.authz.interface import Attributes, Decision, Verdict
from tiphys.machinery.errors import ForbiddenError, StatusError, UnauthorizedError


class Certificate:
    async def authenticate(self, request: Any) -> UserInfo | None:
        return UserInfo("cert") if request.peer_certificate else None


class Token:
    """Knows one token; refuses those that begin with its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def authenticate_token(self, token: str, audiences: tuple[str, ...]) -> Any:
        if token.startswith(f"{self.name}-bad"):
            raise InvalidToken(f"{self.name} says no")
        return (UserInfo(self.name), audiences) if token == self.name else None


def chain(*, anonymous: bool = True) -> AuthenticatorChain:
    return AuthenticatorChain([Certificate()], TokenChain([Token("one"), Token("two")]), anonymous=anonymous)


def bearing(token: str, certificate: bytes | None = None) -> Asking:
    return Asking({"authorization": f"Bearer {token}"} if token else {}, certificate)


@pytest.mark.parametrize(
    ("asking", "name", "group"),
    [
        (bearing("one", b"x"), "cert", "system:authenticated"),
        (bearing("two"), "two", "system:authenticated"),
        (bearing(""), "system:anonymous", "system:unauthenticated"),
    ],
)
async def test_the_first_that_knows_decides(asking: Asking, name: str, group: str) -> None:
    user = await chain().authenticate(asking)
    assert user is not None and (user.name, user.groups) == (name, (group,))


@pytest.mark.parametrize("token", ["nobody's", "one-bad", "two-bad"])
async def test_a_bad_token_is_not_anonymous(token: str) -> None:
    with pytest.raises(UnauthorizedError):
        await chain().authenticate(bearing(token))


async def test_anonymous_may_be_off() -> None:
    with pytest.raises(UnauthorizedError):
        await chain(anonymous=False).authenticate(bearing(""))


class May:
    """Allows impersonation of the things named, as `resource/name` or `resource/sub/name`."""

    def __init__(self, *things: str) -> None:
        self.things = things
        self.asked: list[str] = []

    def authorize(self, attributes: Attributes) -> Decision:
        assert attributes.verb == "impersonate"
        parts = (attributes.namespace, attributes.resource, attributes.subresource, attributes.name)
        thing = "/".join(part for part in parts if part)
        self.asked.append(thing)
        return Decision(Verdict.ALLOW if thing in self.things else Verdict.NO_OPINION)


ME = UserInfo("me", groups=("system:authenticated",))


@pytest.mark.parametrize(
    ("headers", "needs", "expected"),
    [
        (
            {"impersonate-user": "bob"},
            ["users/bob"],
            UserInfo("bob", groups=("system:authenticated",)),
        ),
        (
            {"impersonate-user": "bob", "impersonate-group": "devs, ops"},
            ["users/bob", "groups/devs", "groups/ops"],
            UserInfo("bob", groups=("devs", "ops", "system:authenticated")),
        ),
        (
            {"impersonate-user": "bob", "impersonate-uid": "7", "impersonate-extra-acme.com%2fproject": "a, b"},
            ["users/bob", "uids/7", "userextras/acme.com/project/a", "userextras/acme.com/project/b"],
            UserInfo("bob", "7", ("system:authenticated",), {"acme.com/project": ("a", "b")}),
        ),
        (
            {"impersonate-user": "system:serviceaccount:ns:robot"},
            ["ns/serviceaccounts/robot"],
            UserInfo(
                "system:serviceaccount:ns:robot",
                groups=("system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"),
            ),
        ),
        (
            {"impersonate-user": "system:anonymous"},
            ["users/system:anonymous"],
            UserInfo("system:anonymous", groups=("system:unauthenticated",)),
        ),
    ],
)
def test_acting_as_somebody_else(headers: dict[str, str], needs: list[str], expected: UserInfo) -> None:
    may = May(*needs)
    assert impersonate(ME, headers, may) == expected
    assert may.asked == needs
    for missing in needs:
        with pytest.raises(ForbiddenError, match="cannot impersonate resource"):
            impersonate(ME, headers, May(*(thing for thing in needs if thing != missing)))


def test_the_refusal_names_what_may_not_be_taken_on() -> None:
    with pytest.raises(ForbiddenError) as refused:
        impersonate(ME, {"impersonate-user": "bob", "impersonate-group": "ops"}, May("users/bob"))
    assert refused.value.message == (
        'groups "ops" is forbidden: User "me" cannot impersonate resource "groups" in API group "" at the cluster scope'
    )


@pytest.mark.parametrize("header", ["impersonate-group", "impersonate-uid", "impersonate-extra-scopes"])
def test_groups_without_a_user_are_an_error(header: str) -> None:
    with pytest.raises(StatusError, match="without impersonating a user"):
        impersonate(ME, {header: "x"}, May())
