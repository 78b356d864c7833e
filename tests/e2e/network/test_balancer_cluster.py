"""Services of type LoadBalancer on a cluster of two nodes, asked from the machine, in both proxy modes."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator

import pytest

from tests.e2e.cluster.harness import Cluster, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="nodes need root"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on this machine"),
]

NAME = os.environ.get("TIPHYS_E2E_NAME", "e2e") + "-lb"
PORT = str(int(os.environ.get("TIPHYS_E2E_PORT", "16600")) + 72)

WEB = """
apiVersion: v1
kind: Pod
metadata: {{name: web-{number}, labels: {{app: web}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1.37
    command:
    - sh
    - -c
    - |
      mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho; echo web-{number} $REMOTE_ADDR\\n' > /www/cgi-bin/who
      chmod +x /www/cgi-bin/who; exec httpd -f -p 8080 -h /www
    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: {policy}
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080}}]
"""


@pytest.fixture(scope="module", params=("nftables", "iptables"))
def site(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    cluster = Cluster(NAME)
    cluster.down("--purge")
    try:
        cluster.up("--nodes", "2", "--api-port", PORT, "--proxy-mode", request.param)
        documents = [WEB.format(number=number, node=f"{NAME}-{number}") for number in (1, 2)]
        documents += [SERVICE.format(name=name.lower(), policy=name) for name in ("Cluster", "Local")]
        cluster.apply("---".join(documents))
        cluster.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        yield cluster
    finally:
        cluster.down("--purge")


def address(site: Cluster, name: str) -> str:
    words = ("get", "service", name, "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
    return until(lambda: site.kubectl(*words), f"the address of {name}", 20)


def who(ip: str) -> list[str]:
    """The pod that answers, and the client it sees. Raises OSError when there is no whole answer."""
    with socket.create_connection((ip, 80), timeout=2) as channel:
        channel.sendall(b"GET /cgi-bin/who HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := channel.recv(4096):
            answer += piece
    words = answer.decode().split()
    if len(words) < 2:
        raise ConnectionError("the pod ended while it answered")
    pod, client = words[-2:]
    return [pod, client.strip("[]").removeprefix("::ffff:")]


def reached(ip: str) -> list[str]:
    try:
        return who(ip)
    except OSError:
        return []


def test_an_address_is_reached_from_the_machine_and_local_keeps_the_source(site: Cluster) -> None:
    anywhere, local = address(site, "cluster"), address(site, "local")
    assert anywhere != local
    host = socket.inet_ntoa(socket.inet_aton(anywhere)[:3] + b"\x01")
    until(lambda: reached(anywhere), "an answer", 20)
    assert {who(anywhere)[0] for _ in range(30)} == {"web-1", "web-2"}
    until(lambda: reached(local), "an answer of the local one", 20)
    seen = [who(local) for _ in range(10)]
    assert len({pod for pod, _ in seen}) == 1  # one node answers, and its own pod
    assert {client for _, client in seen} == {host}


def test_the_address_moves_with_the_pods_and_is_given_back(site: Cluster) -> None:
    local = address(site, "local")
    first = until(lambda: reached(local), "an answer", 20)[0]
    other = "web-2" if first == "web-1" else "web-1"
    site.kubectl("delete", "pod", first)
    until(lambda: reached(local)[:1] == [other], "the other pod", 20)
    site.kubectl("patch", "service", "local", "--type=merge", "-p", '{"spec": {"type": "ClusterIP"}}')
    words = ("get", "service", "local", "-o", "jsonpath={.status.loadBalancer}")
    until(lambda: site.kubectl(*words) == "{}", "the address to be given back", 20)
    assert "EnsuredLoadBalancer" in site.kubectl("get", "events")


def test_a_service_is_held_while_it_has_an_address(site: Cluster) -> None:
    def finalizers(name: str) -> str:
        return site.kubectl("get", "service", name, "-o", "jsonpath={.metadata.finalizers}")

    site.apply(SERVICE.format(name="held", policy="Cluster"))
    held = address(site, "held")
    assert finalizers("held") == '["service.kubernetes.io/load-balancer-cleanup"]'
    site.kubectl("patch", "service", "held", "-p", '{"spec": {"type": "ClusterIP", "externalTrafficPolicy": null}}')
    until(lambda: not finalizers("held"), "the finalizer to go with the type", 20)
    assert site.kubectl("get", "service", "held", "-o", "jsonpath={.status.loadBalancer}") == "{}"
    site.kubectl("patch", "service", "held", "-p", '{"spec": {"type": "LoadBalancer"}}')
    assert address(site, "held") == held
    site.kubectl("delete", "service", "held", "--timeout=20s")
