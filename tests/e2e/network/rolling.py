"""A Deployment behind a load balancer rolled over while somebody outside asks all the time."""

from __future__ import annotations

import json
import threading
import time

import tiphys
from tests.e2e.cluster.harness import until
from tests.e2e.netlab import ask
from tests.e2e.network.matrix.site import Site

SPACE = "mx-a"
PAUSE = 0.02  # seconds between two questions
RESTARTS, REPLICAS = 2, 2
# With externalTrafficPolicy Local an address moves between nodes with the pods, at most once when a pod comes and once
# when one goes. A connection under way at that moment reaches a node that knows nothing of it. Everyone else is served:
# asked without a pause, 40,000 times in twelve such updates, not one went without an answer.
MOVES = {"Cluster": 0, "Local": 2 * RESTARTS * REPLICAS}


def answers_while_rolling(site: Site, policy: str, source: str = "") -> list[str]:
    """Every answer the machine outside had, in order; the address is a Service's with this external policy."""
    name = f"rolled-{policy.lower()}"
    _apply(site, name, policy)
    words = ("get", "service", name, "-n", SPACE, "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
    address = until(lambda: site.cluster.kubectl(*words), f"the address of {name}", 20)
    _rolled_out(site, name)
    until(lambda: _is_served(site, address, source), f"an answer of {name}", 40)
    found: list[str] = []
    done = threading.Event()

    def go_on_asking() -> None:
        while not done.is_set():
            found.append(ask(site.outside, address, 80, timeout=2.0, source=source))
            time.sleep(PAUSE)

    asking = threading.Thread(target=go_on_asking)
    asking.start()
    try:
        for _ in range(RESTARTS):
            site.cluster.kubectl("rollout", "restart", f"deployment/{name}", "-n", SPACE)
            _rolled_out(site, name)
        until(lambda: _is_served(site, address, source), f"ten answers of {name} in a row", 20)
    finally:
        done.set()
        asking.join()
        site.cluster.kubectl("delete", f"deployment/{name}", f"service/{name}", "-n", SPACE)
    return found


def _is_served(site: Site, address: str, source: str) -> bool:
    return all(_is_answer(ask(site.outside, address, 80, source=source)) for _ in range(10))


def _is_answer(text: str) -> bool:
    return text not in ("timeout", "refused", "")


def _rolled_out(site: Site, name: str) -> None:
    site.cluster.kubectl("rollout", "status", f"deployment/{name}", "-n", SPACE, "--timeout=100s")


def failures(answers: list[str]) -> list[str]:
    """The questions that were not answered."""
    return [each for each in answers if not _is_answer(each)]


def _apply(site: Site, name: str, policy: str) -> None:
    container = {
        "name": "main",
        "image": f"tiphys.local/system:{tiphys.__version__}",
        "command": ["python3", "/probe/probe.py", "serve", name, "8080"],
        "volumeMounts": [{"name": "probe", "mountPath": "/probe"}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        # The world has to hear of it before it ends, as every server behind a balancer needs.
        "lifecycle": {"preStop": {"sleep": {"seconds": 4}}},
    }
    spec = {
        "terminationGracePeriodSeconds": 6,
        "volumes": [{"name": "probe", "configMap": {"name": "probe"}}],
        "containers": [container],
    }
    labels = {"roll": name}
    template = {"metadata": {"labels": labels}, "spec": spec}
    strategy = {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    deployment = {"replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": template, "strategy": strategy}
    metadata = {"name": name, "namespace": SPACE}
    service = {"type": "LoadBalancer", "externalTrafficPolicy": policy, "selector": labels}
    service |= {"ports": [{"port": 80, "targetPort": 8080}]}  # type: ignore[dict-item]  # values of several types
    for document in (
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ):
        site.cluster.apply(json.dumps(document))
