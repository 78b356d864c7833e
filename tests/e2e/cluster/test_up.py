"""`tiphys up` and what can be wrong with it: one clear line, and nothing is harmed."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from tests.e2e.cluster.harness import NAME, PORT, Cluster, tiphys
from tiphys.proxy.ipvs.kernel import is_available


def test_two_ready_nodes_and_dns(cluster: Cluster) -> None:
    nodes = cluster.get("nodes")["items"]
    assert [node["metadata"]["name"] for node in nodes] == [f"{NAME}-1", f"{NAME}-2"]
    for node in nodes:
        conditions = {item["type"]: item["status"] for item in node["status"]["conditions"]}
        assert conditions["Ready"] == "True"
    service = cluster.get("service", "kube-dns", "-n", "kube-system")
    assert service["spec"]["clusterIP"] == "10.96.0.10"


def test_a_second_up_is_harmless(cluster: Cluster) -> None:
    pids = cluster.pids()
    assert "is running already" in cluster.up()
    assert cluster.pids() == pids


def test_status_names_every_process(cluster: Cluster) -> None:
    document = cluster.status()
    assert document["state"] == "running"
    names = {row["name"] for row in document["processes"]}
    assert {"apiserver", "controller-manager", "scheduler", f"{NAME}-1/kubelet", f"{NAME}-2/proxy"} <= names
    assert all(row["state"] in ("ready", "done") for row in document["processes"])
    text = tiphys("status", "--name", cluster.name).stdout
    assert f"{NAME}-1/runtime" in text
    assert f"https://127.0.0.1:{PORT}" in text


def test_kubeconfig_is_printed(cluster: Cluster) -> None:
    assert tiphys("kubeconfig", "--name", cluster.name).stdout == cluster.kubeconfig.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("up", "--name", NAME, "--nodes", "5"), "is running with 2 nodes; use `tiphys node add`"),
        (("up", "--name", NAME, "--api-port", "7777"), f"is running on port {PORT}"),
        (("up", "--name", "other", "--colour"), "unknown flag: --colour"),
        *(() if is_available() else ((("up", "--name", "other", "--proxy-mode", "ipvs"), "this kernel has no IPVS"),)),
        (("up", "--name", "other", "--datastore", "https://127.0.0.1:1"), "no etcd answers at https://127.0.0.1:1 ("),
        (("up", "--name", "other", "--datastore", "postgres"), 'the datastore "postgres" is not known'),
        (("node", "stop", "nobody", "--name", NAME), f'there is no node "nobody" in cluster "{NAME}"'),
        (("node", "add", f"{NAME}-1", "--name", NAME), f'node "{NAME}-1" exists already'),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_one_line_and_changes_nothing(cluster: Cluster, words: tuple[str, ...], message: str) -> None:
    pids = cluster.pids()
    done = tiphys(*words, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert cluster.pids() == pids


def test_a_port_in_use_is_named(cluster: Cluster) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = tiphys("up", "--name", "other", "--api-only", "--api-port", str(port), check=False)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use by process {os.getpid()}" in done.stderr


def test_a_broken_state_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text("{broken")
    done = tiphys("up", "--name", "other", "--api-only", "--state-dir", str(tmp_path), check=False)
    assert done.returncode == 1
    assert "cluster.json is not a cluster's description" in done.stderr
    assert (tmp_path / "cluster.json").read_text() == "{broken"


def test_a_second_cluster_has_its_own_addresses(cluster: Cluster) -> None:
    other = Cluster(f"{NAME}-b")
    try:
        other.up("--nodes", "1")
        first, second = cluster.status(), other.status()
        assert first["server"] != second["server"]
        assert first["nodes"][0]["address"].rpartition(".")[0] != second["nodes"][0]["address"].rpartition(".")[0]
        assert [node["metadata"]["name"] for node in other.get("nodes")["items"]] == [f"{NAME}-b-1"]
    finally:
        other.down("--purge")
    assert len(cluster.get("nodes")["items"]) == 2


def test_a_state_directory_of_its_own_is_found_by_name(tmp_path: Path) -> None:
    state = tmp_path / "elsewhere"
    try:
        tiphys("up", "--name", "roams", "--api-only", "--state-dir", str(state))
        assert (state / "cluster.json").exists()
        assert json.loads(tiphys("status", "--name", "roams", "-o", "json").stdout)["state"] == "running"
        tiphys("down", "--name", "roams")
        assert "Cluster" in tiphys("up", "--name", "roams").stdout
        taken = tiphys("up", "--name", "roams", "--api-only", "--state-dir", str(tmp_path / "other"), check=False)
        assert taken.returncode == 1
    finally:
        tiphys("down", "--name", "roams", "--purge")
    assert not state.exists()
    assert tmp_path.exists()
    assert not Path("/var/lib/tiphys/roams").is_symlink()


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("apiVersion: v1\nkind: Pod\n  name: x", "error parsing STDIN: error converting YAML to JSON"),
        (
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": "x"},
                    "spec": {"containers": [{"name": "c", "image": "i", "colour": "red"}]},
                }
            ),
            'unknown field "spec.containers[0].colour"',
        ),
        (
            json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "X_Y"}, "spec": {"containers": []}}),
            'The Pod "X_Y" is invalid',
        ),
    ],
    ids=["wrong YAML", "unknown field", "invalid values"],
)
def test_wrong_manifests_get_kubernetes_own_error(cluster: Cluster, manifest: str, message: str) -> None:
    done = cluster.run("apply", "-f", "-", stdin=manifest)
    assert done.returncode == 1
    assert message in done.stderr
