"""NetworkPolicy on a cluster of two nodes, from inside its pods: a truth table a policy.

Servers `web-1` and `web-2` (namespace np-x) and clients in np-x and np-y, one a node each.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import pytest

from tests.e2e.cluster.harness import Cluster, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="nodes need root"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on this machine"),
]

NAME = os.environ.get("TIPHYS_E2E_NAME", "e2e") + "-np"
PORT = str(int(os.environ.get("TIPHYS_E2E_PORT", "16600")) + 71)
CLIENTS = [("np-x", "one"), ("np-x", "two"), ("np-y", "one"), ("np-y", "two")]

POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {space}, labels: {{app: {app}, at: "{name}"}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1.37
    command: [sh, -c, 'mkdir /www; echo ok > /www/index.html; httpd -p 8081 -h /www; exec httpd -f -p 8080 -h /www']
    ports: [{{name: http, containerPort: 8080}}]
    readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1, failureThreshold: 1}}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: np-x}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
"""


def allow(name: str, rule: str, *, space: str = "np-x", selector: str = "{matchLabels: {app: web}}") -> str:
    return f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: {space}}}
spec: {{podSelector: {selector}, {rule}}}
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Cluster]:
    cluster = Cluster(NAME)
    cluster.down("--purge")
    try:
        cluster.up("--nodes", "2", "--api-port", PORT)
        for space in ("np-x", "np-y"):
            cluster.kubectl("create", "namespace", space)
        documents = [SERVICE]
        for number, word in ((1, "one"), (2, "two")):
            node = f"{NAME}-{number}"
            documents.append(POD.format(name=f"web-{number}", space="np-x", app="web", node=node))
            documents += [POD.format(name=word, space=space, app="client", node=node) for space in ("np-x", "np-y")]
        cluster.apply("---".join(documents))
        for space in ("np-x", "np-y"):
            cluster.kubectl("wait", "--for=condition=Ready", "pod", "--all", "-n", space, "--timeout=60s")
        yield cluster
    finally:
        cluster.down("--purge")


@pytest.fixture(autouse=True)
def no_policies(site: Cluster) -> Iterator[None]:
    yield
    for space in ("np-x", "np-y"):
        site.kubectl("delete", "networkpolicy", "--all", "-n", space)
    until(lambda: len(table(site)) == len(CLIENTS) * 3, "everything reached again")


def address(site: Cluster, pod: str) -> str:
    return site.kubectl("get", "pod", pod, "-n", "np-x", "-o", "jsonpath={.status.podIP}")


def fetch(site: Cluster, space: str, pod: str, *targets: str) -> list[bool]:
    """Which of the targets (host:port) a pod reaches."""
    ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {} {} | grep -q ok; echo $?"
    words = "; ".join(ask.format(*target.split(":")) for target in targets)
    return [line == "0" for line in site.kubectl("exec", "-n", space, pod, "--", "sh", "-c", words).split()]


def table(site: Cluster, port: int = 8080) -> set[tuple[str, str, str]]:
    """The pairs that work: client's namespace and name, and its target web-1, web-2 or the Service."""
    targets = {"web-1": f"{address(site, 'web-1')}:{port}", "web-2": f"{address(site, 'web-2')}:{port}"}
    targets["service"] = site.kubectl("get", "service", "web", "-n", "np-x", "-o", "jsonpath={.spec.clusterIP}") + ":80"
    return {
        (space, client, name)
        for space, client in CLIENTS
        for name, reached in zip(targets, fetch(site, space, client, *targets.values()), strict=True)
        if reached
    }


def everything(*clients: tuple[str, str]) -> set[tuple[str, str, str]]:
    return {(*client, target) for client in clients for target in ("web-1", "web-2", "service")}


CASES = {
    "default deny": (allow("deny", "policyTypes: [Ingress]"), everything()),
    "own namespace": (allow("a", "ingress: [{from: [{podSelector: {}}]}]"), everything(*CLIENTS[:2])),
    "another namespace": (
        allow("a", "ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: np-y}}}]}]"),
        everything(*CLIENTS[2:]),
    ),
    "some pods of another namespace": (
        allow(
            "a",
            "ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: np-y}}, "
            "podSelector: {matchLabels: {at: two}}}]}]",
        ),
        everything(("np-y", "two")),
    ),
    "a named port": (allow("a", "ingress: [{ports: [{port: http}]}]"), everything(*CLIENTS)),
    "another port": (allow("a", "ingress: [{ports: [{port: 8081, endPort: 8090}]}]"), everything()),
    "egress to nothing": (
        allow("a", "policyTypes: [Egress]", space="np-y", selector="{}"),
        everything(*CLIENTS[:2]),
    ),
    "egress to one": (
        allow(
            "a",
            "policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {at: web-1}}}]}]",
            space="np-y",
            selector="{}",
        ),
        everything(*CLIENTS[:2]) | {(*client, "web-1") for client in CLIENTS[2:]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_who_reaches_whom(site: Cluster, case: str) -> None:
    policy, expected = CASES[case]
    site.apply(policy)

    def as_expected() -> bool:
        found = table(site)
        if case == "egress to one":  # the Service leads to either server
            found, wanted = ({each for each in made if each[2] != "service"} for made in (found, expected))
            return found == wanted
        assert found == expected
        return True

    until(as_expected, f"the table of {case}", 20)
    if case == "another port":
        assert {each for each in table(site, 8081) if each[2] != "service"} == {
            each for each in everything(*CLIENTS) if each[2] != "service"
        }


def test_probes_pass_and_the_pods_stay_ready(site: Cluster) -> None:
    site.apply(allow("deny", "policyTypes: [Ingress, Egress]", selector="{}"))
    until(lambda: table(site) == set(), "nothing reached", 20)
    site.kubectl("wait", "--for=condition=Ready", "pod", "--all", "-n", "np-x", "--timeout=5s")
    restarts = site.get("pods", "-n", "np-x")["items"]
    assert all(each["status"]["containerStatuses"][0]["restartCount"] == 0 for each in restarts)


def test_a_new_pod_is_denied_from_its_first_packet(site: Cluster) -> None:
    site.apply(allow("deny", "policyTypes: [Egress]", space="np-y", selector="{matchLabels: {app: young}}"))
    target = address(site, "web-2")
    script = (
        f"i=0; while [ $i -lt 3 ]; do nc -w 1 {target} 8080 </dev/null 2>&1 && echo through; i=$((i+1)); done; echo end"
    )
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "young", "namespace": "np-y", "labels": {"app": "young"}},
        "spec": {
            "restartPolicy": "Never",
            "nodeName": f"{NAME}-1",
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {"name": "c", "image": "busybox:1.37", "command": ["sh", "-c", script]},
            ],
        },
    }
    site.apply(json.dumps(pod))
    until(lambda: site.phase("young", "np-y") == "Succeeded", "the end of the young pod", 30)
    assert site.kubectl("logs", "-n", "np-y", "young").replace("nc: timed out\n", "") == "end\n"
    site.kubectl("delete", "pod", "young", "-n", "np-y")
