"""Static and bootstrap tokens, and where a bearer token may stand."""

import base64
from pathlib import Path

import pytest

from tests.unit.apiserver.authn.people import Asking, Objects, encoded
from tiphys.apiserver.authn.tokens import BootstrapTokens, StaticTokens, bearer_token
from tiphys.base.clock import FakeClock

TOKEN = "abcdef.0123456789abcdef"
DATA = {"token_id": "abcdef", "token_secret": "0123456789abcdef", "usage_bootstrap_authentication": "true"}


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, ""),
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer   abc "}, "abc"),
        ({"authorization": "Basic abc"}, ""),
        (
            {
                "sec-websocket-protocol": "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io."
                + base64.urlsafe_b64encode(b"abc").decode().rstrip("=")
            },
            "abc",
        ),
        ({"sec-websocket-protocol": "base64url.bearer.authorization.k8s.io.\u00e9"}, ""),
    ],
)
def test_where_the_token_stands(headers: dict[str, str], token: str) -> None:
    assert bearer_token(Asking(headers)) == token


async def test_static_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text('# comment\nsecret,alice,1,"devs,ops"\nplain,bob,2\n')
    tokens = StaticTokens.from_file(path)
    found = await tokens.authenticate_token("secret", ())
    assert found is not None and (found[0].name, found[0].uid, found[0].groups) == ("alice", "1", ("devs", "ops"))
    found = await tokens.authenticate_token("plain", ())
    assert found is not None and found[0].groups == ()
    assert await tokens.authenticate_token("other", ()) is None
    path.write_text("secret,alice\n")
    with pytest.raises(ValueError, match="at least 3 columns"):
        StaticTokens.from_file(path)


@pytest.mark.parametrize(
    ("token", "changes", "kind", "known"),
    [
        (TOKEN, {}, "bootstrap.kubernetes.io/token", True),
        (TOKEN, {"expiration": "2024-01-01T00:00:01Z"}, "bootstrap.kubernetes.io/token", True),
        (TOKEN, {"expiration": "2024-01-01T00:00:00Z"}, "bootstrap.kubernetes.io/token", False),
        (TOKEN, {"expiration": "tomorrow"}, "bootstrap.kubernetes.io/token", False),
        (TOKEN, {"usage_bootstrap_authentication": "false"}, "bootstrap.kubernetes.io/token", False),
        (TOKEN, {"token_secret": "0000000000000000"}, "bootstrap.kubernetes.io/token", False),
        (TOKEN, {"token_id": "zzzzzz"}, "bootstrap.kubernetes.io/token", False),
        (TOKEN, {"auth_extra_groups": "admins"}, "bootstrap.kubernetes.io/token", False),
        (TOKEN, {}, "Opaque", False),
        ("abcdef.short", {}, "bootstrap.kubernetes.io/token", False),
        ("zzzzzz.0123456789abcdef", {}, "bootstrap.kubernetes.io/token", False),
    ],
)
async def test_bootstrap_tokens(token: str, changes: dict[str, str], kind: str, known: bool) -> None:
    objects = Objects()
    objects.put("secrets", "kube-system", "bootstrap-token-abcdef", type=kind, data=encoded(**(DATA | changes)))
    found = await BootstrapTokens(objects, FakeClock()).authenticate_token(token, ())
    assert (found is not None) is known


async def test_groups_of_bootstrap_tokens() -> None:
    objects = Objects()
    data = encoded(**DATA, auth_extra_groups="system:bootstrappers:b,system:bootstrappers:a")
    objects.put("secrets", "kube-system", "bootstrap-token-abcdef", type="bootstrap.kubernetes.io/token", data=data)
    found = await BootstrapTokens(objects, FakeClock()).authenticate_token(TOKEN, ())
    assert found is not None
    assert found[0].name == "system:bootstrap:abcdef"
    assert found[0].groups == ("system:bootstrappers", "system:bootstrappers:a", "system:bootstrappers:b")
