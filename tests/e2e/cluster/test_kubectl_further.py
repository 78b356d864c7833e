"""What else people do with kubectl: streams of many bytes, debugging, proxies, certificates, tables of every kind."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.e2e.cluster.harness import Cluster, In, until

# A program that ends at SIGTERM, which the first process of a container must ask for.
UNTIL_TOLD = ("sh", "-c", "trap exit TERM; sleep 999 & wait")

SLEEPER = """
apiVersion: v1
kind: Pod
metadata: {name: sleeper, labels: {app: sleeper}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "busybox:1.37", command: [sleep, "100000"]}
"""

WEB = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.37
    command: [sh, -c, 'mkdir /www && echo a page > /www/index.html && exec httpd -f -p 8080 -h /www']
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
"""


def ready(user: In, manifest: str, pod: str) -> None:
    user.apply(manifest)
    user.kubectl("wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=60s")


def test_ten_megabytes_go_through_exec_both_ways(user: In) -> None:
    ready(user, SLEEPER, "sleeper")
    data = os.urandom(10 << 20)
    command = [str(user.program), f"--namespace={user.namespace}", "exec", "-i", "sleeper", "--"]
    environment = {**os.environ, "KUBECONFIG": str(user.kubeconfig)}
    summed = subprocess.run([*command, "md5sum"], input=data, capture_output=True, env=environment, timeout=60)
    assert summed.stdout.split()[0].decode() == hashlib.md5(data).hexdigest()
    echoed = subprocess.run([*command, "cat"], input=data, capture_output=True, env=environment, timeout=60)
    assert echoed.stdout == data


def test_what_cannot_be_joined_is_said_as_elsewhere(user: In) -> None:
    ready(user, SLEEPER, "sleeper")
    missing = user.run("exec", "sleeper", "--", "no-such-program")
    assert missing.returncode == 1
    assert (
        "Internal error occurred: error executing command in container: failed to exec in container" in missing.stderr
    )
    assert 'exec: "no-such-program": executable file not found in $PATH' in missing.stderr
    user.kubectl("run", "waits", "--image=no-such-image:1")
    until(lambda: "BackOff" in user.kubectl("get", "pod", "waits"), "the image to be missed")
    assert 'container not found ("waits")' in user.run("exec", "waits", "--", "ls").stderr
    assert f"container waits not found in pod waits_{user.namespace}" in user.run("attach", "waits").stderr
    log = user.run("logs", "waits").stderr
    assert 'container "waits" in pod "waits" is waiting to start: trying and failing to pull image' in log
    previous = user.run("logs", "--previous", "sleeper").stderr
    assert 'previous terminated container "main" in pod "sleeper" not found' in previous


def test_run_and_debug(newest: In) -> None:
    once = newest.kubectl("run", "once", "--image=busybox:1.37", "--restart=Never", "--rm", "-i", "--", "echo", "hello")
    assert "hello" in once
    piped = newest.kubectl(
        "run", "piped", "--image=busybox:1.37", "--restart=Never", "--rm", "-i", "--", "cat", stdin="through\n"
    )
    assert "through" in piped
    ready(newest, SLEEPER, "sleeper")
    newest.kubectl(
        "debug",
        "sleeper",
        "--image=busybox:1.37",
        "--profile=general",
        "--target=main",
        "-c",
        "look",
        "--",
        "sleep",
        "99",
    )
    until(lambda: newest.run("exec", "sleeper", "-c", "look", "--", "true").returncode == 0, "the ephemeral container")
    assert "sleep 100000" in newest.kubectl("exec", "sleeper", "-c", "look", "--", "ps")
    assert "Ephemeral Containers:" in newest.kubectl("describe", "pod", "sleeper")
    newest.kubectl(
        "debug", "sleeper", "--copy-to=copy", "--profile=general", "--image=busybox:1.37", "--", "sleep", "99"
    )
    newest.kubectl("wait", "--for=condition=Ready", "pod/copy", "--timeout=60s")


def test_previous_logs_of_what_crashes(newest: In) -> None:
    newest.kubectl("run", "crash", "--image=busybox:1.37", "--", "sh", "-c", "echo last words; exit 1")
    until(lambda: "CrashLoopBackOff" in newest.kubectl("get", "pod", "crash"), "a crash loop")
    assert newest.kubectl("logs", "--previous", "crash") == "last words\n"


def test_what_fails_its_liveness_probe_again_and_again_waits_longer(newest: In) -> None:
    probe = "livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1}"
    newest.apply(SLEEPER.replace("command: [sleep", f"{probe}, command: [sleep"))
    until(lambda: "CrashLoopBackOff" in newest.kubectl("get", "pod", "sleeper"), "a crash loop")
    described = newest.kubectl("describe", "pod", "sleeper")
    assert "Container main failed liveness probe, will be restarted" in described
    assert "Back-off restarting failed container main in pod sleeper_" in described


def test_services_and_pods_answer_through_the_server(newest: In) -> None:
    ready(newest, WEB, "web")
    base = f"/api/v1/namespaces/{newest.namespace}"
    until(lambda: newest.run("get", "--raw", f"{base}/services/web:http/proxy/").stdout == "a page\n", "the service")
    assert newest.kubectl("get", "--raw", f"{base}/pods/web:8080/proxy/index.html") == "a page\n"
    refused = newest.run("get", "--raw", f"{base}/pods/web:81/proxy/").stderr
    assert "error trying to reach service: dial tcp" in refused
    assert "connect: connection refused" in refused
    with newest.background("proxy", "--port=0") as proxy:
        assert proxy.stdout is not None
        address = proxy.stdout.readline().rpartition(" ")[2].strip()
        with urllib.request.urlopen(f"http://{address}{base}/services/web/proxy/", timeout=10) as answer:
            assert answer.read() == b"a page\n"


def test_pods_on_the_nodes_network_have_the_nodes_name(user: In) -> None:
    ready(user, SLEEPER.replace("spec:", "spec:\n  hostNetwork: true\n  hostname: mine", 1), "sleeper")
    node = user.kubectl("get", "pod", "sleeper", "-o", "jsonpath={.spec.nodeName}")
    assert user.kubectl("exec", "sleeper", "--", "hostname").strip() == node
    assert user.kubectl("exec", "sleeper", "--", "cat", "/etc/hostname").strip() == node
    logs = user.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/logs/")
    assert f'<a href="/api/v1/nodes/{node}/proxy' not in logs  # relative links lead there anyway
    assert '<a href="pods/">pods/</a>' in logs


def test_every_kind_has_a_table(newest: In) -> None:
    names = newest.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    assert len(names) >= 60
    for name in names:
        newest.kubectl("get", name, "-A", "-o", "wide")
    statuses = newest.kubectl("get", "componentstatuses").splitlines()
    assert statuses[0].split() == ["NAME", "STATUS", "MESSAGE", "ERROR"]
    assert {line.split()[0]: line.split()[1] for line in statuses[1:]} == {
        "controller-manager": "Healthy",
        "scheduler": "Healthy",
        "etcd-0": "Healthy",
    }


@pytest.mark.parametrize(
    "kind",
    ["nodes", "services", "deployments", "replicasets", "endpointslices", "configmaps", "serviceaccounts", "pods"],
)
def test_the_system_can_be_described(cluster: Cluster, kind: str) -> None:
    assert "Name:" in cluster.kubectl("describe", kind, "-n", "kube-system")


def test_created_from_the_command_line(newest: In) -> None:
    for words in (
        ("job", "job", "--image=busybox:1.37", "--", "true"),
        ("cronjob", "cron", "--image=busybox:1.37", "--schedule=0 0 1 1 *", "--", "true"),
        ("job", "by-hand", "--from=cronjob/cron"),
        ("quota", "quota", "--hard=pods=50"),
        ("secret", "generic", "secret", "--from-literal=a=b"),
        ("secret", "docker-registry", "registry", "--docker-server=x", "--docker-username=u", "--docker-password=p"),
        ("serviceaccount", "robot"),
        ("role", "reader", "--verb=get,list", "--resource=pods,pods/log"),
        ("rolebinding", "reader", "--role=reader", f"--serviceaccount={newest.namespace}:robot"),
        ("poddisruptionbudget", "budget", "--selector=app=x", "--min-available=1"),
        ("ingress", "ingress", "--rule=example.com/*=web:80"),
        ("service", "nodeport", "nodeport", "--tcp=80:8080"),
        ("service", "externalname", "name", "--external-name=example.com"),
        ("deployment", "deployment", "--image=busybox:1.37", "--", *UNTIL_TOLD),
    ):
        assert "created" in newest.kubectl("create", *words)
    newest.kubectl("autoscale", "deployment", "deployment", "--min=1", "--max=3", "--cpu-percent=50")
    newest.kubectl("expose", "deployment", "deployment", "--port=80")
    newest.kubectl("wait", "--for=condition=complete", "job/job", "job/by-hand", "--timeout=60s")
    robot = f"--as=system:serviceaccount:{newest.namespace}:robot"
    assert newest.kubectl("auth", "can-i", "get", "pods/log", robot).strip() == "yes"
    assert newest.run("auth", "can-i", "delete", "pods", robot).stdout.strip() == "no"
    token = newest.kubectl("create", "token", "robot").strip()
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["sub"] == f"system:serviceaccount:{newest.namespace}:robot"
    newest.kubectl("rollout", "restart", "deployment/deployment")
    newest.kubectl("rollout", "status", "deployment/deployment", "--timeout=60s")
    everything = newest.kubectl("get", "all,secrets,ingresses,quota,pdb,sa,roles,rolebindings", "-o", "wide")
    assert "<unknown>" not in everything.replace("cpu: <unknown>/50%", "")
    assert "Metrics API not available" in newest.run("top", "pods").stderr


def test_a_users_certificate_opens_the_door(newest: In, tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jane")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem, encoding = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    (tmp_path / "key").write_bytes(key.private_bytes(encoding, pem, serialization.NoEncryption()))
    name = f"jane-{newest.namespace}"
    document = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": base64.b64encode(request.public_bytes(encoding)).decode(),
            "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"],
        },
    }
    newest.apply(json.dumps(document))
    try:
        newest.kubectl("certificate", "approve", name)
        certificate = until(lambda: newest.get("csr", name)["status"].get("certificate"), "the certificate")
        (tmp_path / "crt").write_bytes(base64.b64decode(certificate))
        config = json.loads(newest.kubectl("config", "view", "--raw", "-o", "json"))["clusters"][0]["cluster"]
        (tmp_path / "ca").write_bytes(base64.b64decode(config["certificate-authority-data"]))
        words = [f"--server={config['server']}", f"--certificate-authority={tmp_path / 'ca'}"]
        words += [f"--client-certificate={tmp_path / 'crt'}", f"--client-key={tmp_path / 'key'}"]
        environment = {**os.environ, "KUBECONFIG": "/dev/null"}
        command = [str(newest.program), *words, "auth", "whoami", "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["status"]["userInfo"]["username"] == "jane"
    finally:
        newest.kubectl("delete", "csr", name)


def test_owners_go_alone_or_last(newest: In) -> None:
    for name in ("alone", "last"):
        newest.kubectl("create", "deployment", name, "--image=busybox:1.37", "--", *UNTIL_TOLD)
        newest.kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s")
    newest.kubectl("delete", "deployment", "alone", "--cascade=orphan")
    (orphan,) = newest.get("replicasets", "-l", "app=alone")["items"]
    assert "ownerReferences" not in orphan["metadata"]
    newest.kubectl("delete", "deployment", "last", "--cascade=foreground", "--timeout=60s")
    assert newest.get("replicasets", "-l", "app=last")["items"] == []
    newest.kubectl("delete", "replicaset", "-l", "app=alone")


def test_kustomize_reconcile_and_watch(newest: In, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(
        "configMapGenerator: [{name: made, literals: [a=b]}]\nnamePrefix: pre-\n", encoding="utf-8"
    )
    assert "configmap/pre-made" in newest.kubectl("apply", "-k", str(tmp_path))
    assert "unchanged" in newest.kubectl("apply", "-k", str(tmp_path))
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "mended", "namespace": newest.namespace},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    }
    assert "role.rbac.authorization.k8s.io/mended reconciled" in newest.kubectl(
        "auth", "reconcile", "-f", "-", stdin=json.dumps(role)
    )
    with newest.background("get", "configmaps", "--watch-only", "--output-watch-events") as watching:
        # The watch begins some time after the command; names differ, so the first that is seen proves it.
        assert watching.stdout is not None
        output = watching.stdout.fileno()
        os.set_blocking(output, False)
        seen = ""

        def added() -> bool:
            nonlocal seen
            newest.kubectl("annotate", "--overwrite", "configmap", "kube-root-ca.crt", f"turn={os.urandom(4).hex()}")
            with suppress(BlockingIOError):
                seen += os.read(output, 65536).decode()
            return "MODIFIED" in seen

        until(added, "an event")
    assert seen.split()[:3] == ["EVENT", "NAME", "DATA"]


def test_the_kubernetes_service_comes_back(cluster: Cluster) -> None:
    cluster.kubectl("delete", "service", "kubernetes", "-n", "default")
    until(lambda: cluster.run("get", "service", "kubernetes", "-n", "default").returncode == 0, "the Service")
    assert cluster.get("service", "kubernetes", "-n", "default")["spec"]["clusterIP"] == "10.96.0.1"
