"""A cluster of two nodes with ingress controllers, and pods that say what they were asked."""

from __future__ import annotations

import base64
import datetime
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.cluster.harness import Cluster
from tests.e2e.ingress.asking import Front
from tiphys.runtime.images.system import system_image_name

NAME = os.environ.get("TIPHYS_E2E_NAME", "e2e") + "-in"
PORT = str(int(os.environ.get("TIPHYS_E2E_PORT", "16600")) + 76)

# Answers what it was asked, as JSON; /stream in pieces; an upgraded connection echoes bytes.
ECHO = """
import http.server, json, os, time
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.headers.get("Upgrade"):
            self.send_response(101); self.send_header("Upgrade", "echo"); self.send_header("Connection", "Upgrade")
            self.end_headers()
            while data := self.connection.recv(4096):
                self.connection.sendall(data)
            self.close_connection = True
            return
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith("/stream"):
            self.send_response(200); self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
            for number in range(3):
                self.wfile.write(b"6\\r\\npiece%d\\r\\n" % number); self.wfile.flush(); time.sleep(0.3)
            self.wfile.write(b"0\\r\\n\\r\\n")
            return
        said = {"pod": os.environ["HOSTNAME"], "path": self.path, "method": self.command,
                "headers": {name.lower(): value for name, value in self.headers.items()}}
        body = json.dumps(said).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.send_header("X-Back", "end")
        self.end_headers(); self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", 8080), Echo).serve_forever()
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: {image}
        command: [python3, -c, {code}]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: web, port: 80, targetPort: 8080}}]
---
"""


@dataclass
class Site:
    """The cluster and the way in."""

    cluster: Cluster
    front: Front

    def apply(self, document: str) -> None:
        self.cluster.apply(document)

    def kubectl(self, *words: str) -> str:
        return self.cluster.kubectl(*words)


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    if shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("there is no haproxy on this machine")
    cluster = Cluster(NAME)
    cluster.down("--purge")
    try:
        cluster.up("--nodes", "2", "--api-port", PORT, "--ingress")
        code = "\n".join(["|-", *(f"          {line}" for line in ECHO.strip().splitlines())])
        documents = [
            DEPLOYMENT.format(name=name, replicas=count, image=system_image_name(), code="CODE")
            for name, count in (("one", 1), ("two", 2))
        ]
        cluster.apply(
            "".join(documents).replace("[python3, -c, CODE]", "\n        - python3\n        - -c\n        - " + code)
        )
        cluster.kubectl("rollout", "status", "deployment/one", "deployment/two", "--timeout=90s")
        nodes = cluster.get("nodes")["items"]
        addresses = [
            each["address"] for node in nodes for each in node["status"]["addresses"] if each["type"] == "InternalIP"
        ]
        yield Site(cluster, Front(addresses))
    finally:
        cluster.down("--purge")


def tls_secret(name: str, *hosts: str) -> tuple[str, str]:
    """A Secret's manifest with a certificate of its own for the hosts, and the certificate (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    data = {"tls.crt": certificate, "tls.key": private}
    lines = "\n".join(f"  {field}: {base64.b64encode(value).decode()}" for field, value in data.items())
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\ndata:\n{lines}\n", (
        certificate.decode()
    )
