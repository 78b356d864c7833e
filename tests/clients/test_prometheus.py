"""Prometheus, where one with Kubernetes service discovery is on this machine, finds targets of every role."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tiphys import testing
from tiphys.testing import build

PROMETHEUS = os.environ.get("TIPHYS_PROMETHEUS") or shutil.which("prometheus")
NAME = "__meta_kubernetes_{role}_name"


def configuration(cluster: testing.Cluster) -> dict[str, Any]:
    """A job a role, and one that reads the API server's own metrics."""

    def job(role: str) -> dict[str, Any]:
        discovery = {"role": role, "kubeconfig_file": str(cluster.kubeconfig)}
        return {"job_name": role, "scrape_interval": "1h", "kubernetes_sd_configs": [discovery]}

    tls = {
        "ca_file": str(cluster.client_config.ca),
        "cert_file": str(cluster.client_config.cert),
        "key_file": str(cluster.client_config.key),
    }
    server = {
        "job_name": "apiserver",
        "scheme": "https",
        "scrape_interval": "1s",
        "tls_config": tls,
        "static_configs": [{"targets": [cluster.server.removeprefix("https://")]}],
    }
    return {"scrape_configs": [server, *map(job, ("service", "pod", "endpointslice"))]}


@pytest.mark.skipif(not PROMETHEUS, reason="no prometheus on this machine")
def test_targets_are_found(tiphys_cluster: testing.Cluster, tiphys_namespace: str, tmp_path: Path) -> None:
    kubernetes = pytest.importorskip("kubernetes")
    with kubernetes.config.new_client_from_config(str(tiphys_cluster.kubeconfig)) as client:
        core = kubernetes.client.CoreV1Api(client)
        core.create_namespaced_pod(tiphys_namespace, build.pod("found", nodeName="imaginary"))
        status = {"status": {"phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}]}}
        core.patch_namespaced_pod_status("found", tiphys_namespace, status)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration(tiphys_cluster)))
    flags = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([str(PROMETHEUS), *flags, f"--web.listen-address={address}"], stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not complete(targets(address)):
            if process.poll() is not None and "kubernetes_sd_configs" in (tmp_path / "log").read_text():
                pytest.skip("this prometheus was built without Kubernetes service discovery")
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
    finally:
        process.terminate()
        process.wait()


def targets(address: str) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/targets", timeout=5) as answer:
            return list(json.loads(answer.read())["data"]["activeTargets"])
    except OSError:
        return []


def complete(found: list[dict[str, Any]]) -> bool:
    """The API server's metrics were read, the pod, the service and the endpoints of kubernetes were discovered."""
    up = any(one["scrapePool"] == "apiserver" and one["health"] == "up" for one in found)
    names = {
        (role, one["discoveredLabels"].get(NAME.format(role=role))) for one in found for role in ("pod", "service")
    }
    slices = any(one["scrapePool"] == "endpointslice" for one in found)
    return up and slices and {("pod", "found"), ("service", "kubernetes")} <= names
