"""What a cluster offers machines that join, and what those check."""

from __future__ import annotations

import base64
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tiphys.apiserver.pki import Authority
from tiphys.cmd.cluster.join import TOKEN, discover, public_key_hash
from tiphys.cmd.cluster.joining import BOOTSTRAPPERS, joining
from tiphys.cmd.cluster.spec import ClusterSpec
from tiphys.cmd.credentials import due, is_ours, token_life
from tiphys.cmd.errors import CommandError


def test_the_hash_is_kubeadms(tmp_path: Path) -> None:
    """As the documentation of kubeadm computes it with openssl."""
    pem = Authority.create("kubernetes").pem
    (tmp_path / "ca.crt").write_bytes(pem)
    pipe = "openssl x509 -pubkey -noout -in ca.crt | openssl pkey -pubin -outform der | openssl dgst -sha256 -hex"
    done = subprocess.run(["sh", "-c", pipe], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert public_key_hash(pem) == f"sha256:{done.stdout.split()[-1]}"


def test_objects_are_applied_once_each() -> None:
    found = joining(ClusterSpec(name="c"), {"clusters": []})
    keys = [(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in found]
    assert len(set(keys)) == len(keys)
    roles = {(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in found}
    for item in found:
        reference = item.get("roleRef", {"name": "system:"})
        if not reference["name"].startswith("system:"):
            assert (reference["kind"], item["metadata"].get("namespace", ""), reference["name"]) in roles


def test_tokens_may_do_little() -> None:
    """Every role that the group of bootstrap tokens is bound to."""
    found = joining(ClusterSpec(name="c"), {})
    bound = {
        item["roleRef"]["name"]
        for item in found
        if any(subject.get("name") == BOOTSTRAPPERS for subject in item.get("subjects", ()))
    }
    assert bound == {
        "kubeadm:get-nodes",
        "system:node-bootstrapper",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "tiphys:node-config",
        "tiphys:node-accounts",
    }
    (accounts,) = (
        item for item in found if item["kind"] == "Role" and item["metadata"]["name"] == "tiphys:node-accounts"
    )
    assert accounts["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["serviceaccounts/token"],
            "verbs": ["create"],
            "resourceNames": ["kube-proxy", "tiphys-network"],
        }
    ]


@pytest.mark.parametrize(
    "token", ["", "abc", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde", "abcdef0123456789abcdef"]
)
async def test_what_is_no_token(token: str) -> None:
    assert TOKEN.fullmatch(token) is None
    with pytest.raises(CommandError, match="is not a bootstrap token"):
        await discover("https://127.0.0.1:1", token, ())


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("names", "own_authority", "now", "expected"),
    [
        pytest.param(("n1", "172.30.0.9"), True, NOW, True, id="fits"),
        pytest.param(("n1", "172.30.0.10"), True, NOW, False, id="lacks an address"),
        pytest.param(("n1",), False, NOW, False, id="another authority"),
        pytest.param(("n1",), True, NOW + timedelta(days=350), False, id="ends soon"),
    ],
)
def test_serving_certificate(
    tmp_path: Path, names: tuple[str, ...], own_authority: bool, now: datetime, expected: bool
) -> None:
    authority, other = Authority.create("kubernetes"), Authority.create("kubernetes")
    pair = (authority if own_authority else other).server("system:node:n1", ("n1", "172.30.0.9"), ("system:nodes",))
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    (tmp_path / "kubelet.crt").write_bytes(pair.certificate)
    assert is_ours(tmp_path / "kubelet.crt", tmp_path / "ca.crt", names, now) is expected
    assert not is_ours(tmp_path / "missing.crt", tmp_path / "ca.crt", names, now)


@pytest.mark.parametrize(("days", "expected"), [(0, False), (240, False), (250, True), (400, True)])
def test_a_credential_is_due_when_a_third_of_its_life_is_left(days: int, expected: bool) -> None:
    assert due(NOW, NOW + timedelta(days=365), NOW + timedelta(days=days)) is expected


def test_the_life_of_a_token() -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"iat": 1000, "exp": 4600}).encode()).decode().rstrip("=")
    begin, end = token_life(f"h.{claims}.s")
    assert (begin.timestamp(), end.timestamp()) == (1000, 4600)
