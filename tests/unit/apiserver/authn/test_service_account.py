"""Tokens of service accounts: bound and legacy, and everything that ends them."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.unit.apiserver.authn.people import Objects, encoded
from tiphys.apiserver.authn.service_account import BoundObject, ServiceAccountTokens, TokenIssuer
from tiphys.apiserver.authn.tokens import InvalidToken
from tiphys.base.clock import FakeClock

ISSUER = "https://issuer.test"
API = "https://api.test"
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)


class World:
    """An issuer, an authenticator and what they look at."""

    def __init__(self, key: Any = KEY) -> None:
        self.clock = FakeClock()
        self.objects = Objects()
        self.objects.put("serviceaccounts", "ns", "robot", "sa-uid")
        self.issuer = TokenIssuer(key, ISSUER, self.clock)
        self.tokens = ServiceAccountTokens([key.public_key()], [ISSUER], [API], self.objects, self.clock)

    def token(self, bound: BoundObject | None = None, audiences: tuple[str, ...] = (API,), lifetime: int = 600) -> str:
        return self.issuer.bound("ns", "robot", "sa-uid", audiences, lifetime, bound)[0]

    async def user(self, token: str, *audiences: str) -> Any:
        return await self.tokens.authenticate_token(token, audiences)


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("key", [KEY, RSA_KEY], ids=["ES256", "RS256"])
async def test_a_token_says_who_it_is(key: Any) -> None:
    world = World(key)
    user, audiences = await world.user(world.token())
    assert (user.name, user.uid) == ("system:serviceaccount:ns:robot", "sa-uid")
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:ns")
    assert audiences == (API,)
    assert user.extra["authentication.kubernetes.io/credential-id"][0].startswith("JTI=")


async def test_a_token_of_a_pod_says_where_it_runs(world: World) -> None:
    world.objects.put("pods", "ns", "p", "pod-uid")
    token = world.token(BoundObject("Pod", "p", "pod-uid", "n1", "node-uid"))
    user, _ = await world.user(token)
    extra = {key.removeprefix("authentication.kubernetes.io/"): value for key, value in user.extra.items()}
    assert extra["pod-name"] == ("p",) and extra["pod-uid"] == ("pod-uid",)
    assert extra["node-name"] == ("n1",) and extra["node-uid"] == ("node-uid",)


@pytest.mark.parametrize(
    ("offered", "asked", "matching"),
    [
        (("a", "b"), ("b", "c"), ("b",)),
        (("a",), ("b",), None),
        (("a",), (), None),  # not for the API server
        ((API, "a"), (), (API,)),
    ],
)
async def test_audiences(world: World, offered: Any, asked: Any, matching: Any) -> None:
    token = world.token(audiences=offered)
    if matching is None:
        with pytest.raises(InvalidToken, match="is invalid for the target audiences"):
            await world.user(token, *asked)
    else:
        assert (await world.user(token, *asked))[1] == matching


async def test_a_token_expires_even_when_its_signature_is_remembered(world: World) -> None:
    token = world.token(lifetime=600)
    assert await world.user(token)
    await world.clock.advance(599)
    assert await world.user(token)
    await world.clock.advance(1)
    with pytest.raises(InvalidToken, match="expired"):
        await world.user(token)


async def test_a_token_is_not_valid_before_its_time(world: World) -> None:
    early = FakeClock(world.clock.now())
    await early.advance(60)
    token = TokenIssuer(KEY, ISSUER, early).bound("ns", "robot", "sa-uid", [API], 600)[0]
    with pytest.raises(InvalidToken, match="not valid yet"):
        await world.user(token)


def altered(token: str, **claims: Any) -> str:
    head, body, signature = token.split(".")
    decoded = json.loads(base64.urlsafe_b64decode(body + "=="))
    body = base64.urlsafe_b64encode(json.dumps(decoded | claims).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


async def test_a_token_that_was_tampered_with_is_refused(world: World) -> None:
    token = world.token()
    for bad in (altered(token, exp=1 << 40), token[:-4] + "AAAA", token.rpartition(".")[0] + "."):
        with pytest.raises(InvalidToken, match="invalid signature"):
            await world.user(bad)


async def test_a_token_signed_by_somebody_else_is_refused(world: World) -> None:
    token = TokenIssuer(OTHER, ISSUER, world.clock).bound("ns", "robot", "sa-uid", [API], 600)[0]
    with pytest.raises(InvalidToken, match="invalid signature"):
        await world.user(token)


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS256"])
async def test_the_algorithm_is_the_keys(world: World, algorithm: str) -> None:
    _, body, signature = world.token().split(".")
    head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm}).encode()).rstrip(b"=").decode()
    with pytest.raises(InvalidToken, match="invalid signature"):
        await world.user(f"{head}.{body}.{signature}")


@pytest.mark.parametrize(
    "text", ["", "a.b", "a.b.c", "é.é.é", "e30.e30.e30", "e30.W10.e30", "....", "bnVsbA.bnVsbA.e30"]
)
async def test_what_is_no_token_of_ours_is_left_to_others(world: World, text: str) -> None:
    assert await world.user(text) is None


async def test_deep_nesting_is_no_token_and_no_accident(world: World) -> None:
    deep = base64.urlsafe_b64encode(b"[" * 100_000).decode()
    assert await world.user(f"{deep}.{deep}.e30") is None


async def test_another_issuers_token_is_left_to_others(world: World) -> None:
    token = TokenIssuer(KEY, "https://other.test", world.clock).bound("ns", "robot", "sa-uid", [API], 600)[0]
    assert await world.user(token) is None


@pytest.mark.parametrize(
    ("resource", "namespace", "name", "kind"),
    [("pods", "ns", "p", "Pod"), ("secrets", "ns", "p", "Secret"), ("nodes", "", "p", "Node")],
)
async def test_a_token_ends_with_what_it_is_bound_to(
    world: World, resource: str, namespace: str, name: str, kind: str
) -> None:
    found = world.objects.put(resource, namespace, name, "bound-uid")
    token = world.token(BoundObject(kind, name, "bound-uid"), lifetime=10_000)
    assert await world.user(token)
    # While it is being deleted the token lives on for a minute, so that it can end its work.
    found["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z"
    await world.clock.advance(60)
    assert await world.user(token)
    await world.clock.advance(1)
    with pytest.raises(InvalidToken, match="invalidated"):
        await world.user(token)
    world.objects.put(resource, namespace, name, "another-uid")
    with pytest.raises(InvalidToken, match="invalidated"):
        await world.user(token)


async def test_a_token_ends_with_its_account(world: World) -> None:
    token = world.token()
    world.objects.put("serviceaccounts", "ns", "robot", "made-again")
    with pytest.raises(InvalidToken, match="UID"):
        await world.user(token)
    world.objects.clear()
    with pytest.raises(InvalidToken, match="has been deleted"):
        await world.user(token)


async def test_a_legacy_token_lives_as_long_as_its_secret(world: World) -> None:
    token = world.issuer.legacy("ns", "robot", "sa-uid", "robot-token")
    with pytest.raises(InvalidToken, match="invalidated"):
        await world.user(token)
    world.objects.put("secrets", "ns", "robot-token", data=encoded(token=token))
    user, _ = await world.user(token)
    assert user.name == "system:serviceaccount:ns:robot"
    world.objects.put("secrets", "ns", "robot-token", data=encoded(token="another"))
    with pytest.raises(InvalidToken, match="does not match server's copy"):
        await world.user(token)
