"""Helm, where it is on this machine: a chart with a custom resource is installed, upgraded, rolled back and removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tiphys import testing

HELM = os.environ.get("TIPHYS_HELM") or shutil.which("helm")

CHART = """\
apiVersion: v2
name: demo
version: 0.1.0
"""

DEFINITION = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.helm.example}
spec:
  group: helm.example
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""

TEMPLATE = """\
apiVersion: helm.example/v1
kind: Widget
metadata: {name: {{ .Release.Name }}}
spec: {size: {{ .Values.size }}, version: {{ .Capabilities.KubeVersion.Minor | quote }}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data: {size: {{ .Values.size | quote }}}
"""


def chart(directory: Path) -> Path:
    files = {
        "Chart.yaml": CHART,
        "values.yaml": "size: 1\n",
        "crds/widgets.yaml": DEFINITION,
        "templates/all.yaml": TEMPLATE,
    }
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


@pytest.mark.skipif(not HELM, reason="no helm on this machine")
def test_the_life_of_a_release(tiphys_cluster: testing.Cluster, tiphys_namespace: str, tmp_path: Path) -> None:
    def helm(*arguments: str) -> str:
        command = [str(HELM), *arguments, "--namespace", tiphys_namespace]
        environment = {**tiphys_cluster.environment, "HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    demo = str(chart(tmp_path / "demo"))
    helm("install", "r", demo)
    helm("upgrade", "r", demo, "--set", "size=2")
    assert "size: 2" in helm("get", "manifest", "r")
    helm("rollback", "r", "1")
    assert [one["revision"] for one in json.loads(helm("history", "r", "-o", "json"))] == [1, 2, 3]
    assert "size: 1" in helm("get", "manifest", "r")
    helm("uninstall", "r")
    assert json.loads(helm("list", "-o", "json")) == []
