"""Kubeconfig files and what a RestConfig takes from them."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from tiphys.base.clock import FakeClock
from tiphys.client import RestConfig, kubeconfig
from tiphys.client.config import TokenSource


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config"
    kubeconfig.write(
        path,
        kubeconfig.build(
            name="tiphys", server="https://127.0.0.1:6443/", ca_data=b"CA", cert_data=b"CERT", key_data=b"KEY"
        ),
    )
    config = RestConfig.from_kubeconfig(path)
    assert config.server == "https://127.0.0.1:6443"
    assert (config.ca_data, config.cert_data, config.key_data) == (b"CA", b"CERT", b"KEY")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_merging_keeps_other_clusters_and_unknown_fields(tmp_path: Path) -> None:
    mine = kubeconfig.build(name="tiphys", server="https://a", token="t")
    other = {"clusters": [{"name": "other", "cluster": {"server": "https://b"}}], "extensions": [{"name": "x"}]}
    merged = kubeconfig.merge(kubeconfig.merge(other, mine), kubeconfig.build(name="tiphys", server="https://c"))
    assert [entry["name"] for entry in merged["clusters"]] == ["other", "tiphys"]
    assert kubeconfig.select(merged).cluster["server"] == "https://c"
    assert merged["extensions"] == [{"name": "x"}]


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"CA")
    path = tmp_path / "config"
    path.write_text(
        "clusters: [{name: c, cluster: {server: 'https://x', certificate-authority: ca.crt}}]\n"
        "users: [{name: u, user: {tokenFile: token}}]\n"
        "contexts: [{name: x, context: {cluster: c, user: u, namespace: dev}}]\ncurrent-context: x\n"
    )
    config = RestConfig.from_kubeconfig(path)
    assert (config.ca_data, config.token_file, config.namespace) == (b"CA", str(tmp_path / "token"), "dev")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: [", "not valid YAML", id="yaml"),
        pytest.param("- a", "expected a mapping at the top", id="list"),
        pytest.param("{}", "no context is chosen", id="empty"),
        pytest.param("current-context: x", "context 'x' does not exist", id="context"),
        pytest.param(
            "current-context: x\ncontexts: [{name: x, context: {cluster: c}}]",
            "cluster 'c' does not exist",
            id="cluster",
        ),
        pytest.param(
            "current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\n"
            "clusters: [{name: c, cluster: {server: 'https://x', certificate-authority-data: '%'}}]",
            "certificate-authority-data is not base64",
            id="base64",
        ),
    ],
)
def test_a_broken_file_says_what_is_wrong_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        RestConfig.from_kubeconfig(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: No such file or directory"):
        RestConfig.from_kubeconfig(tmp_path / "nowhere")


async def test_a_token_file_is_read_again_after_a_minute_and_after_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    clock = FakeClock()
    source = TokenSource(RestConfig(server="https://x", token_file=str(path)), clock)
    assert await source.token() == "one"
    path.write_text("two")
    assert await source.token() == "one"
    await clock.advance(61)
    assert await source.token() == "two"
    path.write_text("three")
    source.forget()
    assert await source.token() == "three"


async def test_an_exec_plugin_gives_a_token_until_it_expires(tmp_path: Path) -> None:
    counter = tmp_path / "count"
    script = tmp_path / "plugin"
    script.write_text(
        f"#!/bin/sh\necho x >> {counter}\n"
        'echo \'{"kind":"ExecCredential","status":{"token":"t","expirationTimestamp":"2024-01-01T01:00:00Z"}}\'\n'
    )
    script.chmod(0o755)
    path = tmp_path / "config"
    path.write_text(
        "clusters: [{name: c, cluster: {server: 'https://x'}}]\n"
        f"users: [{{name: u, user: {{exec: {{command: {script}, apiVersion: client.authentication.k8s.io/v1}}}}}}]\n"
        "contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n"
    )
    clock = FakeClock()
    source = TokenSource(RestConfig.from_kubeconfig(path), clock)
    assert [await source.token(), await source.token()] == ["t", "t"]
    assert counter.read_text() == "x\n"
    await clock.advance(3601)
    await source.token()
    assert counter.read_text() == "x\nx\n"


def test_in_cluster_needs_the_service_and_reads_the_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ValueError, match="unable to load in-cluster configuration"):
        RestConfig.in_cluster(tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "ca.crt").write_bytes(b"CA")
    (tmp_path / "namespace").write_text("dev")
    config = RestConfig.in_cluster(tmp_path)
    assert (config.server, config.namespace, config.ca_data) == ("https://[fd00::1]:443", "dev", b"CA")


def test_data_fields_are_base64(tmp_path: Path) -> None:
    entry = {"client-key-data": base64.b64encode(b"KEY").decode()}
    assert kubeconfig.data_or_file(entry, "client-key", tmp_path) == b"KEY"
