"""kubectl as people use it, unmodified, in every version that is on this machine."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import time
import urllib.request
from pathlib import Path

from tests.e2e.cluster.harness import In, until

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: busybox:1.36
        command: [sh, -c, 'mkdir -p /www; echo "page of $(hostname)" > /www/index.html; httpd -f -p 8080 -h /www']
        ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
"""

POD = """
apiVersion: v1
kind: Pod
metadata: {name: shell, labels: {app: shell}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.37
    command: [sh, -c, 'i=0; while true; do echo "line $i"; i=$((i+1)); sleep 0.2; done']
  - name: reader
    image: busybox:1.37
    stdin: true
    command: [sh, -c, 'while read line; do echo "got $line"; done']
"""


def test_deploy_look_change_and_go_back(user: In) -> None:
    assert "deployment.apps/web created" in user.apply(WEB)
    user.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    wide = user.kubectl("get", "pods", "-o", "wide")
    assert wide.splitlines()[0].split()[:7] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    assert wide.count("Running") == 2
    assert "deployment.apps/web configured" in user.apply(WEB.replace("replicas: 2", "replicas: 3"))
    user.kubectl("wait", "deployment/web", "--for=condition=Available", "--timeout=60s")
    user.kubectl("scale", "deployment/web", "--replicas=1")
    user.kubectl("wait", "deployment/web", "--for=jsonpath={.status.replicas}=1", "--timeout=60s")
    user.kubectl("set", "image", "deployment/web", "web=busybox:1.37")
    user.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    image = "jsonpath={.spec.template.spec.containers[0].image}"
    assert user.kubectl("get", "deployment", "web", "-o", image) == "busybox:1.37"
    history = user.kubectl("rollout", "history", "deployment/web")
    assert [line.split()[0] for line in history.splitlines() if line[:1].isdigit()] == ["1", "2"]
    user.kubectl("rollout", "undo", "deployment/web")
    user.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    assert user.kubectl("get", "deployment", "web", "-o", image) == "busybox:1.36"
    described = user.kubectl("describe", "deployment", "web")
    assert "NewReplicaSet:" in described
    assert "ScalingReplicaSet" in described
    assert "kind: Deployment" in user.kubectl("get", "deployment", "web", "-o", "yaml")
    events = user.kubectl("events", "--for", "deployment/web")
    assert "ScalingReplicaSet" in events
    user.kubectl("delete", "deployment/web", "service/web", "--timeout=60s")


def test_labels_taints_cordon_and_drain(user: In) -> None:
    node = f"{user.name}-2"
    try:
        user.kubectl("label", "node", node, "disk=fast")
        assert node in user.kubectl("get", "nodes", "-l", "disk=fast")
        user.kubectl("taint", "node", node, "tidy=yes:NoSchedule")
        assert "tidy=yes:NoSchedule" in user.kubectl("describe", "node", node)
        user.kubectl("taint", "node", node, "tidy:NoSchedule-")
        user.apply(WEB)
        user.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
        user.kubectl("cordon", node)
        assert "SchedulingDisabled" in user.kubectl("get", "node", node)
        drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s")
        user.kubectl(*drain, "--pod-selector=app=web")
        nodes = "jsonpath={.items[*].spec.nodeName}"
        until(
            lambda: set(user.kubectl("get", "pods", "-o", nodes).split()) == {f"{user.name}-1"}, "pods to be elsewhere"
        )
    finally:
        user.kubectl("uncordon", node)
        user.kubectl("label", "node", node, "disk-")


def test_logs_exec_attach_copy_and_forward(user: In, tmp_path: Path) -> None:
    user.apply(POD)
    user.kubectl("wait", "--for=condition=Ready", "pod/shell", "--timeout=60s")
    until(lambda: "line 2" in user.kubectl("logs", "shell", "-c", "main"), "some lines")
    assert "line 0" in user.kubectl("logs", "shell", "-c", "main")
    assert len(user.kubectl("logs", "shell", "-c", "main", "--tail=2").splitlines()) == 2
    assert re.match(r"\d{4}-\d\d-\d\dT", user.kubectl("logs", "shell", "-c", "main", "--timestamps", "--tail=1"))
    with user.background("logs", "-f", "shell", "-c", "main", "--tail=1") as following:
        assert following.stdout is not None
        lines = [following.stdout.readline() for _ in range(4)]
    assert all(line.startswith("line ") for line in lines)

    assert user.kubectl("exec", "shell", "-c", "main", "--", "echo", "hello").strip() == "hello"
    assert user.kubectl("exec", "-i", "shell", "-c", "main", "--", "cat", stdin="through\n") == "through\n"
    failed = user.run("exec", "shell", "-c", "main", "--", "sh", "-c", "echo oops >&2; exit 7")
    assert failed.returncode == 7
    assert "oops" in failed.stderr

    with user.background("attach", "-i", "shell", "-c", "reader") as attached:
        assert attached.stdin is not None
        assert attached.stdout is not None
        attached.stdin.write("there\n")
        attached.stdin.flush()
        while "got there" not in (line := attached.stdout.readline()):
            assert line, "attach ended"

    local = tmp_path / "up.bin"
    local.write_bytes(os.urandom(200_000))
    user.kubectl("cp", str(local), "shell:/tmp/up.bin", "-c", "main")
    user.kubectl("cp", "shell:/tmp/up.bin", str(tmp_path / "down.bin"), "-c", "main")
    assert (tmp_path / "down.bin").read_bytes() == local.read_bytes()


def test_port_forward(user: In) -> None:
    user.apply(WEB)
    user.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with user.background("port-forward", "deployment/web", f"{port}:8080") as forwarding:
        assert forwarding.stdout is not None
        assert "Forwarding from 127.0.0.1" in forwarding.stdout.readline()
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                assert answer.read().startswith(b"page of web-")


def test_a_terminal_is_resized(user: In) -> None:
    user.apply(POD)
    user.kubectl("wait", "--for=condition=Ready", "pod/shell", "--timeout=60s")
    environment = {**os.environ, "KUBECONFIG": str(user.kubeconfig), "TERM": "xterm"}
    command = [str(user.program), f"--namespace={user.namespace}", "exec", "-it", "shell", "-c", "main", "--", "sh"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, environment)
    try:
        _set_size(terminal, 33, 101)
        os.kill(pid, signal.SIGWINCH)
        seen = b""
        deadline = time.monotonic() + 20
        while b"33 101" not in seen and time.monotonic() < deadline:
            os.write(terminal, b"stty size\n")
            seen += _read(terminal, 0.5)
        assert b"33 101" in seen
        _set_size(terminal, 44, 120)
        while b"44 120" not in seen and time.monotonic() < deadline:
            os.write(terminal, b"stty size\n")
            seen += _read(terminal, 0.5)
        assert b"44 120" in seen
        os.write(terminal, b"exit 3\n")
        while _read(terminal, 0.5):
            continue
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) in (3, -signal.SIGHUP)


def _set_size(terminal: int, rows: int, columns: int) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _read(terminal: int, seconds: float) -> bytes:
    ready, _, _ = select.select([terminal], [], [], seconds)
    try:
        return os.read(terminal, 65536) if ready else b""
    except OSError:
        return b""


def test_asking_the_server(user: In) -> None:
    explained = user.kubectl("explain", "pod.spec.containers.image")
    assert "image" in explained
    assert "<string>" in explained
    resources = user.kubectl("api-resources")
    assert re.search(r"^deployments +deploy +apps/v1 +true +Deployment", resources, re.MULTILINE)
    assert "apps/v1" in user.kubectl("api-versions").splitlines()
    assert user.kubectl("auth", "can-i", "create", "pods").strip() == "yes"
    denied = user.run("auth", "can-i", "create", "pods", "--as=nobody")
    assert denied.stdout.strip() == "no"
    dry = json.loads(user.kubectl("create", "configmap", "x", "--from-literal=a=b", "--dry-run=server", "-o", "json"))
    assert dry["metadata"]["uid"]
    assert user.run("get", "configmap", "x").returncode == 1
    assert json.loads(user.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"].startswith("v1.36.")


def test_server_side_apply_and_diff(user: In) -> None:
    user.kubectl("apply", "--server-side", "-f", "-", stdin=WEB)
    changed = WEB.replace("replicas: 2", "replicas: 1")
    difference = user.run("diff", "-f", "-", stdin=changed)
    assert difference.returncode == 1, difference.stderr
    assert "+  replicas: 1" in difference.stdout
    user.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=changed)
    assert user.kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}") == "1"


def test_patch_annotate_edit_and_replace(user: In) -> None:
    user.kubectl("create", "configmap", "settings", "--from-literal=a=1")
    user.kubectl("patch", "configmap", "settings", "--type=merge", "-p", '{"data":{"b":"2"}}')
    user.kubectl("patch", "configmap", "settings", "--type=json", "-p", '[{"op":"remove","path":"/data/a"}]')
    user.kubectl("annotate", "configmap", "settings", "note=kept")
    found = user.get("configmap", "settings")
    assert found["data"] == {"b": "2"}
    assert found["metadata"]["annotations"] == {"note": "kept"}
    found["data"] = {"c": "3"}
    user.kubectl("replace", "-f", "-", stdin=json.dumps(found))
    stale = user.run("replace", "-f", "-", stdin=json.dumps(found))
    assert "the object has been modified" in stale.stderr
