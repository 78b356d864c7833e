"""What is stored of a value, byte for byte as kube-apiserver stores it, and what is said of values nobody can read."""

from __future__ import annotations

import base64

import pytest

from tiphys.apiserver.encryption.configuration import Key, Provider, Rule
from tiphys.apiserver.encryption.providers import Encryption
from tiphys.apiserver.encryption.transformer import Transformer, TransformError
from tiphys.base.metrics import REGISTRY

SECRET = "/registry/core/secrets/default/a"
CONTEXT = b"/registry/secrets/default/a"
KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
VALUE = b'{"kind":"Secret","apiVersion":"v1"}'
CIPHERS = ("aesgcm", "aescbc", "secretbox")


def sealing(*providers: Provider) -> Transformer:
    found = Encryption([Rule(("secrets",), providers)]).transformer(SECRET)
    assert found is not None
    return found


def provider(kind: str, **keys: bytes) -> Provider:
    return Provider(kind, tuple(Key(name, secret) for name, secret in keys.items()))


IDENTITY = Provider("identity")


@pytest.mark.parametrize("kind", CIPHERS)
def test_what_is_sealed_can_be_opened_again(kind: str) -> None:
    transformer = sealing(provider(kind, k1=KEY))
    stored = transformer.seal(VALUE, CONTEXT)
    assert stored.startswith(f"k8s:enc:{kind}:v1:k1:".encode())
    assert VALUE not in stored
    assert stored != transformer.seal(VALUE, CONTEXT)
    assert transformer.open(stored, CONTEXT) == (VALUE, False)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096])
@pytest.mark.parametrize("kind", CIPHERS)
def test_every_length(kind: str, size: int) -> None:
    transformer = sealing(provider(kind, k1=KEY))
    assert transformer.open(transformer.seal(b"x" * size, CONTEXT), CONTEXT) == (b"x" * size, False)


@pytest.mark.parametrize("kind", CIPHERS)
def test_the_first_provider_writes_and_what_others_wrote_is_stale(kind: str) -> None:
    before = sealing(provider(kind, old=OTHER)).seal(VALUE, CONTEXT)
    rotated = sealing(provider(kind, new=KEY, old=OTHER), IDENTITY)
    assert rotated.open(before, CONTEXT) == (VALUE, True)
    assert rotated.open(VALUE, CONTEXT) == (VALUE, True)
    assert rotated.open(rotated.seal(VALUE, CONTEXT), CONTEXT) == (VALUE, False)
    given_up = sealing(IDENTITY, provider(kind, old=OTHER))
    assert given_up.open(before, CONTEXT) == (VALUE, True)
    assert given_up.seal(VALUE, CONTEXT) == VALUE


def test_two_providers_may_share_a_prefix() -> None:
    before = sealing(provider("aesgcm", old=OTHER)).seal(VALUE, CONTEXT)
    both = sealing(provider("aesgcm", new=KEY), provider("aesgcm", old=OTHER))
    assert both.open(before, CONTEXT) == (VALUE, True)


# What a value says that cannot be read, as kube-apiserver v1.36 says it of the same bytes.
UNREADABLE = [
    pytest.param(b"k8s:enc:foo:v1:k1:abcd", "no matching prefix found", id="no such provider"),
    pytest.param(
        b"k8s:enc:aesgcm:v1:zz:abcd", "no matching key was found for the provided AES transformer", id="no such key"
    ),
    pytest.param(
        b"k8s:enc:secretbox:v1:zz:abcd",
        "no matching key was found for the provided Secretbox transformer",
        id="no such secretbox key",
    ),
    pytest.param(b"k8s:enc:aesgcm:v1:k1:aaaaa", "the stored data was shorter than the required size", id="gcm 5"),
    pytest.param(b"k8s:enc:aesgcm:v1:k1:" + b"a" * 64, "cipher: message authentication failed", id="gcm 64"),
    pytest.param(
        b"k8s:enc:secretbox:v1:k1:" + b"a" * 32, "the stored data was shorter than the required size", id="32"
    ),
    pytest.param(
        b"k8s:enc:secretbox:v1:k1:" + b"a" * 64, "output array was not large enough for encryption", id="secretbox 64"
    ),
    pytest.param(b"k8s:enc:aescbc:v1:k1:aaaaa", "the stored data was shorter than the required size", id="cbc 5"),
    pytest.param(
        b"k8s:enc:aescbc:v1:k1:" + b"a" * 33, "the stored data is not a multiple of the block size", id="cbc 33"
    ),
    pytest.param(b"k8s:enc:aescbc:v1:k1:" + b"a" * 16, "invalid PKCS7 data (empty or not padded)", id="cbc 16"),
]


@pytest.mark.parametrize(("stored", "message"), UNREADABLE)
def test_what_cannot_be_read_says_why(stored: bytes, message: str) -> None:
    transformer = sealing(*(provider(kind, k1=KEY) for kind in CIPHERS), IDENTITY)
    with pytest.raises(TransformError) as caught:
        transformer.open(stored, CONTEXT)
    assert str(caught.value) == message


def test_aesgcm_holds_a_value_to_its_place() -> None:
    transformer = sealing(provider("aesgcm", k1=KEY))
    with pytest.raises(TransformError, match="message authentication failed"):
        transformer.open(transformer.seal(VALUE, CONTEXT), b"/registry/secrets/default/b")


@pytest.mark.parametrize(
    ("key", "context"),
    [
        ("/registry/core/secrets/default/a", b"/registry/secrets/default/a"),
        ("/registry/core/nodes/a", b"/registry/minions/a"),
        ("/registry/core/services/d/a", b"/registry/services/specs/d/a"),
        ("/registry/apps/deployments/d/a", b"/registry/deployments/d/a"),
        ("/registry/networking.k8s.io/ingresses/d/a", b"/registry/ingress/d/a"),
        ("/registry/example.com/widgets/d/a", b"/registry/example.com/widgets/d/a"),
        ("/registry/apiregistration.k8s.io/apiservices/v1.x", b"/registry/apiregistration.k8s.io/apiservices/v1.x"),
    ],
)
def test_the_context_is_upstreams_key(key: str, context: bytes) -> None:
    assert Encryption([]).context(key) == context
    assert Encryption([], "/other/place").context(key) == b"/other/place" + context.removeprefix(b"/registry")


@pytest.mark.parametrize(
    ("names", "sealed"),
    [
        (("secrets",), "core/secrets"),
        (("secrets.",), "core/secrets"),
        (("*.",), "core/secrets core/pods"),
        (("*.apps",), "apps/deployments"),
        (("deployments.apps", "secrets"), "core/secrets apps/deployments"),
        (("widgets.example.com",), "example.com/widgets"),
        (("*.*",), "core/secrets core/pods apps/deployments example.com/widgets"),
    ],
)
def test_names_of_resources(names: tuple[str, ...], sealed: str) -> None:
    encryption = Encryption([Rule(names, (provider("aesgcm", k1=KEY),))])
    resources = ("core/secrets", "core/pods", "apps/deployments", "example.com/widgets")
    found = [name for name in resources if encryption.transformer(f"/registry/{name}/d/a") is not None]
    assert found == sealed.split()
    assert encryption.transformer("compact_rev_key") is None


def test_the_first_rule_that_names_a_resource_is_its_rule() -> None:
    rules = [Rule(("secrets",), (provider("secretbox", s=KEY),)), Rule(("*.*",), (provider("aesgcm", g=KEY),))]
    encryption = Encryption(rules)
    secrets, pods = encryption.transformer(SECRET), encryption.transformer("/registry/core/pods/d/a")
    assert secrets is not None
    assert pods is not None
    assert secrets.seal(VALUE, CONTEXT).startswith(b"k8s:enc:secretbox:v1:s:")
    assert pods.seal(VALUE, CONTEXT).startswith(b"k8s:enc:aesgcm:v1:g:")


# Written by kube-apiserver v1.36, in protobuf, with a key of 32 letters "k": (the key in etcd, the value).
BY_UPSTREAM: dict[str, tuple[str, str]] = {
    "aesgcm": (
        "/registry/secrets/default/a",
        (
            "azhzOmVuYzphZXNnY206djE6azE6w0WZX6RV+q06zL2K9ht5+SWrZHjDsBUCBrRuYeRK7l1Cezo0Gp17zk4KCq9wpoFYtdDV7656"
            "drbX439ChFyg4lWfBm/ku7+O48RM0wNTz1GMkw9llOGc1XErbma74H5dmVONCL3q18z2Pv03WB/uCM6jmA9P+CzY8vOC2188QS19"
            "WEF2gxuDiJ1vXOBS5PFuhiLWpKGv/LaNLtX4aDa5AkIXZb6eq57rSVCdT0w9Kc89vEzE59MFw/V5QyaB7sC5q8tKjYXoxscfzHTy"
            "91Rw7AnoESPv41vcYty/GjcAyPQ9ETrhgjzRvne4LPCE"
        ),
    ),
    "secretbox": (
        "/registry/configmaps/default/a",
        (
            "azhzOmVuYzpzZWNyZXRib3g6djE6azE6SRbfFta0QudIoDRX3xcr4FMbQLnL7Yk07s7wVuoeftMnneTazTQ6Sq6ldajCqo7tGSpL"
            "5IORuNuVJokMp+IulHbtEHgfgBZUEnXCn+XZwaROGzsIBr5JeixgWt694bHE7qJNV2NIjLlYe9ydiUyk9b44PB1YrKcU7H1ja4OJ"
            "2zJnEuNCw1E7wThBRveEG4zH8CzVnX+xZklnNI6NQRfmsiFqEY3SKoi+p4xxtXb8/R87E7iP44pgB6tiou417Daa+x10WvSGztyA"
            "NkesiCSGe3P8U2sRGp3h+K3GVbei+ZwZaqUbSzeR8A=="
        ),
    ),
    "aescbc": (
        "/registry/limitranges/default/a",
        (
            "azhzOmVuYzphZXNjYmM6djE6azE6N9/2DVwHcjqEdmOmIK0m7FYiuTs2Eg7iJD7Okig+FD3cxl3ptqEsNVGXaoM/yK0993nPYjSn"
            "LUQxU0L0Sb5LLDF872DqatRP8ee8oa+kY04z2HvpN3kEDOYneJFaX3Dmj3N7q3nCuTUuYkS96oo+Gy16ZprVOuw7yim+gH67j//c"
            "9fPrjCH5Lzp3CQLNAtn8b6zarMVuBnpE9JTYznx6XnsUlbLe0nH5ruoSK1kt5QBA5a/KIdbXQEFJNw5Wrsc0j3kjNqqrLsgzCXTo"
            "/xYgFQ=="
        ),
    ),
}


@pytest.mark.parametrize("kind", sorted(BY_UPSTREAM))
def test_what_upstream_wrote(kind: str) -> None:
    context, stored = BY_UPSTREAM[kind]
    value, stale = sealing(provider(kind, k1=b"k" * 32)).open(base64.b64decode(stored), context.encode())
    assert value.startswith(b"k8s\0")
    assert not stale


def test_what_is_opened_and_sealed_is_counted() -> None:
    counted = Encryption([Rule(("*.apps",), (provider("aesgcm", k1=KEY), IDENTITY))])
    transformer = counted.transformer("/registry/apps/deployments/d/a")
    assert transformer is not None
    transformer.open(transformer.seal(VALUE, CONTEXT), CONTEXT)
    with pytest.raises(TransformError):
        transformer.open(b"k8s:enc:foo:", CONTEXT)
    shown = REGISTRY.expose().decode()
    name = 'apiserver_storage_transformation_operations_total{resource="deployments.apps",'
    for labels in (
        'status="OK",transformation_type="from_storage",transformer_prefix="k8s:enc:aesgcm:v1:"} 1',
        'status="OK",transformation_type="to_storage",transformer_prefix="k8s:enc:aesgcm:v1:"} 1',
        'status="unknown-non-grpc",transformation_type="from_storage",transformer_prefix="unknown"} 1',
    ):
        assert name + labels in shown
