"""What an EncryptionConfiguration may say. The messages are kube-apiserver v1.36's for the same files."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from tiphys.apiserver.configfile import ConfigError
from tiphys.apiserver.encryption.configuration import Key, Provider, Rule, load, parse
from tiphys.apiserver.encryption.providers import Encryption

FILE = Path("enc.yaml")
KEY = base64.b64encode(b"k" * 32).decode()
IDENTITY: dict[str, Any] = {"identity": {}}
HEAD = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration"}


def rule(resources: list[str], *providers: Any) -> dict[str, Any]:
    return {"resources": resources, "providers": list(providers)}


def with_key(kind: str, secret: str = KEY, name: str = "a") -> dict[str, Any]:
    return {kind: {"keys": [{"name": name, "secret": secret}]}}


def kms(**changes: Any) -> dict[str, Any]:
    return {"kms": {"name": "x", "endpoint": "unix:///tmp/x.sock", "apiVersion": "v2", **changes}}


def problem_of(*rules: Any, **head: Any) -> str:
    """What is wrong with a file, without the words before."""
    data = yaml.safe_dump({**HEAD, **head, "resources": list(rules)}).encode()
    with pytest.raises(ConfigError) as caught:
        Encryption(parse(data, FILE))
    return str(caught.value).removeprefix("error while parsing file: ").removeprefix("resources[0].")


def of_resource(name: str) -> str:
    return f'resources[0]: Invalid value: "{name}": '


MASKED = (
    "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be "
    "masked"
)
EXTENSIONS = "'extensions' group has been removed and cannot be used for encryption"
EVENTS = (
    "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file"
)
NO_API = "resources which do not have REST API/s cannot be encrypted"


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "resources: Required value: at least one resources[0].resources is required"),
        (["Secrets"], of_resource("Secrets") + "resource name should not contain capital letters"),
        (["secrets.*"], of_resource("secrets.*") + "encrypting the same resource across groups is not supported"),
        (["*.extensions"], of_resource("*.extensions") + EXTENSIONS),
        (["events.events.k8s.io"], of_resource("events.events.k8s.io") + EVENTS),
        (["serviceipallocations"], of_resource("serviceipallocations") + NO_API),
        (
            ["secrets", "secrets"],
            'resources: Invalid value: ["secrets","secrets"]: the same resource cannot be specified multiple times',
        ),
        (["*.*", "secrets"], f'resources: Invalid value: ["*.*","secrets"]: {MASKED}'),
        (["*.", "secrets"], f'resources: Invalid value: ["*.","secrets"]: {MASKED}'),
        (["*.apps", "deployments.apps"], f'resources: Invalid value: ["*.apps","deployments.apps"]: {MASKED}'),
    ],
)
def test_names_that_cannot_be(names: list[str], problem: str) -> None:
    assert problem_of(rule(names, IDENTITY)) == problem


@pytest.mark.parametrize(
    "name", ["secrets", "secrets.", "*.", "*.*", "*.apps", "foos", "foos.example.com", "a/b", "", "events"]
)
def test_names_that_can_be(name: str) -> None:
    Encryption(parse(yaml.safe_dump({**HEAD, "resources": [rule([name], IDENTITY)]}).encode(), FILE))


NONE = '{"AESGCM":null,"AESCBC":null,"Secretbox":null,"Identity":null,"KMS":null}'
NO_KEYS = "providers[0].aesgcm.keys: Required value: at least one keys is required"
SECRET = 'secret: Invalid value: "REDACTED": '
SERVICE = "providers[0].kms."


@pytest.mark.parametrize(
    ("provider", "problem"),
    [
        (
            {},
            (
                f"providers[0]: Invalid value: {NONE}: provider does not contain any of the expected providers: KMS, "
                "AESGCM, AESCBC, Secretbox, Identity"
            ),
        ),
        ({"aesgcm": {}}, NO_KEYS),
        ({"aesgcm": {"keys": []}}, NO_KEYS),
        (
            {"aesgcm": {"keys": [{"secret": KEY}]}},
            "providers[0].aesgcm.keys[0].name: Required value: name is a mandatory field for a key",
        ),
        (
            {"aesgcm": {"keys": [{"name": "a"}]}},
            "providers[0].aesgcm.keys[0].secret: Required value: secret is a mandatory field for a key",
        ),
        (with_key("aesgcm", "!!"), f"providers[0].aesgcm.keys[0].{SECRET}secrets must be base64 encoded"),
        (
            with_key("aescbc", "a2tra2s="),
            (
                f"providers[0].aescbc.keys[0].{SECRET}secret is not of the expected length, got 5, "
                "expected one of [16 24 32]"
            ),
        ),
        (
            with_key("secretbox", base64.b64encode(b"k" * 16).decode()),
            (
                f"providers[0].secretbox.keys[0].{SECRET}secret is not of the expected length, got 16, "
                "expected one of [32]"
            ),
        ),
        (kms(name=""), f"{SERVICE}name: Required value: name is a mandatory field for a provider"),
        (
            kms(name="a:b"),
            f"{SERVICE}name: Invalid value: \"a:b\": invalid KMS provider name a:b, must not contain ':'",
        ),
        (kms(endpoint=""), f'{SERVICE}endpoint: Invalid value: "": endpoint is a mandatory field for a kms'),
        (
            kms(endpoint="http://x"),
            (
                f'{SERVICE}endpoint: Invalid value: "http://x": unsupported scheme "http" for KMS provider, '
                "only unix is supported"
            ),
        ),
        (kms(timeout="-1s"), f'{SERVICE}timeout: Invalid value: "-1s": timeout should be a positive value'),
        (kms(cachesize=5), f"{SERVICE}cachesize: Invalid value: 5: cachesize is not supported in v2"),
        (
            kms(apiVersion="v3"),
            (
                f'{SERVICE}apiVersion: Invalid value: "v3": unsupported apiVersion apiVersion for KMS provider, '
                "only v1 and v2 are supported"
            ),
        ),
        (
            kms(apiVersion="v1"),
            (
                "error while building transformers: KMSv1 is deprecated and will only receive security updates going "
                "forward. Use KMSv2 instead.  Set --feature-gates=KMSv1=true to use the deprecated KMSv1 feature."
            ),
        ),
    ],
)
def test_providers_that_cannot_be(provider: Any, problem: str) -> None:
    assert problem_of(rule(["secrets"], provider)) == problem


def test_a_message_never_has_a_key() -> None:
    problem = problem_of(rule(["secrets"], {**with_key("aesgcm"), **IDENTITY}))
    assert problem.endswith(
        "more than one provider specified in a single element, should split into different list elements"
    )
    assert KEY not in problem


def test_two_rules() -> None:
    secrets = rule(["secrets"], IDENTITY)
    Encryption(parse(yaml.safe_dump({**HEAD, "resources": [secrets, secrets]}).encode(), FILE))
    problem = problem_of(rule(["*.*"], IDENTITY), secrets)
    assert problem == 'error while building transformers: resource "secrets" is masked by earlier rule "*.*"'
    problem = problem_of(rule(["a"], kms()), rule(["b"], kms()))
    assert problem == (
        'resources[1].providers[0].kms.name: Invalid value: "x": duplicate KMS provider name x, names must be unique'
    )


DECODING = 'error while parsing file: error decoding encryption provider configuration file "enc.yaml": '
SCHEME = 'in scheme "k8s.io/apiserver/pkg/server/options/encryptionconfig/config.go"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resources: []", f"{DECODING}Object 'Kind' is missing"),
        ("apiVersion: v1\nkind: Pod\n", f'{DECODING}no kind "Pod" is registered for version "v1" {SCHEME}'),
        (
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nfoo: 1\n",
            f'{DECODING}strict decoding error: unknown field "foo"',
        ),
        (
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: []\nresources: []\n",
            f'{DECODING}strict decoding error: yaml: unmarshal errors:\n  line 4: key "resources" already set in map',
        ),
        (
            "apiVersion: v1\nkind: EncryptionConfig\n",
            "error while parsing file: resources: Required value: at least one resources is required",
        ),
    ],
)
def test_files_that_are_none(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), FILE)
    assert str(caught.value) == message


def test_an_empty_file_and_none(tmp_path: Path) -> None:
    empty = tmp_path / "e"
    empty.touch()
    with pytest.raises(ConfigError, match=r"encryption provider configuration file .* is empty"):
        load(empty)
    with pytest.raises(ConfigError, match=r"error opening encryption provider configuration file .*: open .*: no such"):
        load(tmp_path / "none")


def test_what_a_file_says() -> None:
    text = yaml.safe_dump({**HEAD, "resources": [rule(["secrets", "*.apps"], with_key("aescbc"), IDENTITY)]})
    aescbc = Provider("aescbc", (Key("a", b"k" * 32),))
    assert parse(text.encode(), FILE) == (Rule(("secrets", "*.apps"), (aescbc, Provider("identity"))),)
