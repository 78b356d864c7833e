"""What `scripts/up` shows after a cluster is up: a workload on both nodes, answering.

A Deployment of three replicas, through its NodePort from this machine, and through its DNS name
from a pod on another node. It stays, to be looked at.
"""

from __future__ import annotations

import asyncio
import sys
import time
import urllib.request
from collections.abc import Sequence
from typing import Any, Final

from tiphys.api.apps.v1 import Deployment
from tiphys.api.core.v1 import Node, Pod, Service
from tiphys.client import Client, RestConfig
from tiphys.cmd.cluster import spec as specs
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.progress import Progress
from tiphys.cmd.errors import CommandError
from tiphys.cmd.up import parser
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

NAMESPACE: Final = "default"
NAME: Final = "hello"
IMAGE: Final = "busybox:1.37"
REPLICAS: Final = 3
PATIENCE: Final = 60.0  # seconds for each part
SCRIPT: Final = 'mkdir -p /www && echo "hello from $(hostname)" > /www/index.html && exec httpd -f -p 8080 -h /www'

Object = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Run the demonstration on the cluster that the same flags of `tiphys up` started."""
    options = parser().parse(arguments)
    layout = Layout.of(options.name, options.state_dir)
    spec = specs.load(layout.spec)
    if spec is None or spec.mode != "cluster":
        return 0  # nothing can run on it
    progress = Progress()
    progress.line("\nA workload:")
    try:
        asyncio.run(_show(layout, progress))
    except (CommandError, StatusError, OSError) as error:
        print(f"scripts/up: {error}", file=sys.stderr)
        return 1
    progress.line(f"\nIt stays until `kubectl delete deployment,service {NAME}`.")
    return 0


async def _show(layout: Layout, progress: Progress) -> None:
    config = RestConfig.from_kubeconfig(layout.kubeconfig("admin"))
    async with Client(config, "tiphys-demo") as client:
        with progress.part(f"deployment {NAME}, {REPLICAS} replicas"):
            await _create(client, deployment())
            await _create(client, service())
            await _until(lambda: _rolled_out(client), "the deployment to be available")
        pods = await client.list(Pod, namespace=NAMESPACE, label_selector=f"app={NAME}")
        where = sorted({pod.spec.node_name for pod in pods.items})
        progress.done("its pods run on", note=", ".join(where))
        node = (await client.list(Node)).items[0]
        address = next(item.address for item in node.status.addresses if item.type == "InternalIP")
        port = (await client.get(Service, ObjectName(NAMESPACE, NAME))).spec.ports[0].node_port
        url = f"http://{address}:{port}/"
        with progress.part("through the NodePort, from here"):
            answer = await _until(lambda: asyncio.to_thread(_fetch, url), f"{url} to answer")
        progress.line(f"    $ curl {url}\n    {answer}")
        with progress.part("through its DNS name, from a pod"):
            answer = await _ask_from_pod(client, where)
        progress.line(f"    $ wget -qO- http://{NAME}.{NAMESPACE}.svc.cluster.local\n    {answer}")


async def _create(client: Client, document: Object) -> None:
    version = document["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    plural = f"{document['kind'].lower()}s"
    try:
        await client.request_json("POST", f"{root}/namespaces/{NAMESPACE}/{plural}", document)
    except AlreadyExistsError:
        return


async def _until(check: Any, what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = await check()
        if found:
            return found
        await asyncio.sleep(0.05)
    raise CommandError(f"waited {PATIENCE:.0f} s in vain for {what}")


async def _rolled_out(client: Client) -> bool:
    found = await client.get(Deployment, ObjectName(NAMESPACE, NAME))
    return (found.status.available_replicas or 0) >= REPLICAS


def _fetch(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return str(answer.read().decode().strip())
    except OSError:
        return ""


async def _ask_from_pod(client: Client, where: Sequence[str]) -> str:
    """Run a pod on a node that has not all of the replicas, and read what it got."""
    name = ObjectName(NAMESPACE, f"{NAME}-probe")
    await _remove(client, name)
    await _create(client, probe(where[-1]))

    async def finished() -> bool:
        return (await client.get(Pod, name)).status.phase in ("Succeeded", "Failed")

    await _until(finished, "the probe pod to finish")
    log = await client.request_bytes("GET", f"/api/v1/namespaces/{name.namespace}/pods/{name.name}/log")
    await _remove(client, name)
    text = log.decode().strip()
    if not text.startswith("hello from"):
        raise CommandError(f"the probe pod did not get an answer: {text or 'nothing'}")
    return text


async def _remove(client: Client, name: ObjectName) -> None:
    try:
        await client.delete(Pod, name, grace_period_seconds=0)
    except NotFoundError:
        return

    async def gone() -> bool:
        try:
            await client.get(Pod, name)
        except NotFoundError:
            return True
        return False

    await _until(gone, "the probe pod to be gone")


def deployment() -> Object:
    """Three replicas, spread over the nodes."""
    labels = {"app": NAME}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    container = {
        "name": "web",
        "image": IMAGE,
        "command": ["sh", "-c", SCRIPT],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "topologySpreadConstraints": [spread]},
            },
        },
    }


def service() -> Object:
    """The NodePort."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "type": "NodePort",
            "selector": {"app": NAME},
            "ports": [{"port": 80, "targetPort": 8080}],
        },
    }


def probe(node: str) -> Object:
    """A pod that asks for the service by name, once."""
    ask = f"timeout 3 wget -qO- http://{NAME}.{NAMESPACE}.svc.cluster.local"
    command = f"for i in 1 2 3 4 5; do {ask} && exit 0; sleep 1; done; exit 1"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{NAME}-probe", "namespace": NAMESPACE},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "containers": [{"name": "probe", "image": IMAGE, "command": ["sh", "-c", command]}],
        },
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
