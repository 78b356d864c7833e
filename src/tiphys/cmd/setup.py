"""`tiphys setup` (a job of `up`): what is done once the API answers.

Add-ons are applied, the nodes are awaited, their pods' addresses are routed on this machine, and
Node objects of nodes that were removed are deleted. Safe to run again at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tiphys.api.core.v1 import Node, Pod
from tiphys.api.table import resource_by_kind
from tiphys.base.log import get_logger
from tiphys.base.notify import notify, notify_ready
from tiphys.base.tasks import Supervised
from tiphys.client import Client, Informers, PatchType
from tiphys.cmd.cluster import spec as specs
from tiphys.cmd.cluster.addons import cluster_dns, ingress_class, local_storage
from tiphys.cmd.cluster.components import NODE_LABEL
from tiphys.cmd.cluster.identities import kubeconfig
from tiphys.cmd.cluster.joining import joining
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.spec import ClusterSpec
from tiphys.cmd.component import add_common_flags, begin_logging, connect, run
from tiphys.cmd.errors import CommandError
from tiphys.cmd.flags import FlagParser
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

MANAGER: Final = "tiphys"


def main(arguments: Sequence[str]) -> int:
    """Run the job."""
    flags = FlagParser("setup", "Complete a cluster whose API server answers.")
    add_common_flags(flags, kubeconfig=False)
    flags.add_argument("--name", required=True, help="name of the cluster")
    flags.add_argument("--state-dir", type=Path, required=True, help="its state")
    flags.add_argument("--part", choices=tuple(PARTS), required=True, help="what is to be done")
    options = flags.parse(arguments)
    begin_logging(options.verbosity)
    layout = Layout.of(options.name, options.state_dir)
    spec = specs.load(layout.spec)
    if spec is None:
        raise CommandError(f"{layout.spec} is gone")

    async def work() -> None:
        async with connect(layout.kubeconfig("admin"), "tiphys-setup") as client:
            await PARTS[options.part](client, spec, layout)
            notify_ready()

    return run(work)


async def _complete_nodes(client: Client, spec: ClusterSpec, layout: Layout) -> None:
    """Forget nodes that were removed, await those there are, and bring what every cluster has."""
    await _forget_removed_nodes(client, spec)
    async with asyncio.TaskGroup() as group:
        group.create_task(_give_storage(client))
        group.create_task(_let_machines_join(client, spec, layout))
        group.create_task(_await_nodes(client, spec, layout))
        if spec.ingress:
            group.create_task(_give_ingress_class(client))


async def _complete_dns(client: Client, spec: ClusterSpec, layout: Layout) -> None:
    """Cluster DNS. Its image is there: pods whose image is missing would be tried again only after ten seconds."""
    for document in cluster_dns(spec):
        await _apply(client, document)
    since = _started(layout)
    async with Supervised() as tasks:
        informers = Informers(client)
        pods = informers.of(Pod, namespace="kube-system", label_selector="k8s-app=kube-dns")
        changed = asyncio.Event()
        pods.add_handler(lambda _: changed.set(), lambda *_: changed.set(), None)
        tasks.spawn(informers.run, name="informers")
        said = ""
        while not any(_serves(pod, since) for pod in pods.lister.list()):
            said = _say_waiting(said, "cluster DNS", [why_pod_waits(pod) for pod in pods.lister.list()])
            await changed.wait()
            changed.clear()
        notify("progress", what="cluster DNS")


async def _give_storage(client: Client) -> None:
    rights, storage_class = local_storage()
    for document in rights:
        await _apply(client, document)
    # Its owner may have made another class the default since: it is never put back.
    with suppress(AlreadyExistsError):
        await client.request_json("POST", "/apis/storage.k8s.io/v1/storageclasses", storage_class)


async def _give_ingress_class(client: Client) -> None:
    # As with storage: made once, its owner may choose another default.
    with suppress(AlreadyExistsError):
        await client.request_json("POST", "/apis/networking.k8s.io/v1/ingressclasses", ingress_class())


async def _let_machines_join(client: Client, spec: ClusterSpec, layout: Layout) -> None:
    server = f"https://{spec.bridge_address()}:{spec.api_port}"
    info = kubeconfig(spec.name, server, (layout.pki / "ca.crt").read_bytes(), {})
    for document in joining(spec, info):
        await _apply(client, document)


async def _await_nodes(client: Client, spec: ClusterSpec, layout: Layout) -> None:
    """Wait until every node is Ready."""
    since = _started(layout)
    async with Supervised() as tasks:
        informers = Informers(client)
        nodes = informers.of(Node)
        changed = asyncio.Event()
        nodes.add_handler(lambda _: changed.set(), lambda *_: changed.set(), None)
        tasks.spawn(informers.run, name="informers")
        waiting = [node.name for node in spec.nodes]
        said = ""
        while waiting:
            found = [nodes.lister.get(ObjectName("", name)) for name in waiting]
            said = _say_waiting(said, ", ".join(waiting), [why_node_waits(node) for node in found if node is not None])
            await changed.wait()
            changed.clear()
            for name in list(waiting):
                node = nodes.lister.get(ObjectName("", name))
                if node is not None and _is_ready(node, since):
                    waiting.remove(name)
                    notify("progress", what=f"node {name} Ready")


async def _apply(client: Client, document: dict[str, Any]) -> None:
    """Server-side apply: what an administrator has changed since is put back only where it is ours."""
    version, metadata = document["apiVersion"], document["metadata"]
    group, _, number = version.rpartition("/")
    resource = resource_by_kind(group, number, document["kind"])
    if resource is None:
        raise CommandError(f"{version} {document['kind']} is not a kind of this version")
    place = f"/namespaces/{metadata['namespace']}" if resource.namespaced else ""
    root = f"/apis/{version}" if group else f"/api/{version}"
    path = f"{root}{place}/{resource.plural}/{metadata['name']}"
    query = {"fieldManager": MANAGER, "force": "true"}
    await client.request_json("PATCH", path, document, query=query, content_type=PatchType.APPLY)


async def _forget_removed_nodes(client: Client, spec: ClusterSpec) -> None:
    """Delete Node objects of this machine that are no longer in the spec, and the pods nobody can end any more."""
    known = {node.name for node in spec.nodes}
    for node in (await client.list(Node)).items:
        name = node.metadata.name
        if node.metadata.labels.get(NODE_LABEL) != spec.name or name in known:
            continue
        with suppress(NotFoundError):
            await client.delete(Node, ObjectName("", name))
        for pod in (await client.list(Pod, field_selector=f"spec.nodeName={name}")).items:
            with suppress(NotFoundError):
                key = ObjectName(pod.metadata.namespace, pod.metadata.name)
                await client.delete(Pod, key, grace_period_seconds=0)


def _started(layout: Layout) -> datetime:
    """When this cluster was started last: what was written before it, by processes that are gone, says nothing."""
    return datetime.fromtimestamp(int(layout.started.stat().st_mtime), UTC)


def _say_waiting(said: str, what: str, reasons: Sequence[str]) -> str:
    """Tell `up` what is awaited and why it is not there, unless that was `said` last; returns what was said."""
    reason = next(filter(None, reasons), "")
    text = f"waiting for {what}: {reason}" if reason else f"waiting for {what}"
    if text != said:
        notify("waiting", **{"for": text})
    return text


def why_pod_waits(pod: Pod) -> str:
    """What keeps a pod from serving, in the words of its status: no node fits, or a container does not start."""
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            return condition.message
    for status in pod.status.container_statuses:
        waiting = status.state.waiting if status.state is not None else None
        if waiting is not None and waiting.message:
            return f"{waiting.reason}: {waiting.message}"
    return ""


def why_node_waits(node: Node) -> str:
    """What keeps a node from being Ready, in the words of its kubelet."""
    return next(
        (each.message for each in node.status.conditions if each.type == "Ready" and each.status != "True"),
        "",
    )


def _is_ready(node: Node, since: datetime) -> bool:
    ready = any(
        condition.type == "Ready"
        and condition.status == "True"
        and condition.last_heartbeat_time is not None
        and condition.last_heartbeat_time >= since
        for condition in node.status.conditions
    )
    return ready and bool(node.spec.pod_cidr)


def _serves(pod: Pod, since: datetime) -> bool:
    ready = any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions)
    running = [status.state.running for status in pod.status.container_statuses if status.state is not None]
    return ready and all(one is not None and one.started_at is not None and one.started_at >= since for one in running)


PARTS: Final = {"nodes": _complete_nodes, "dns": _complete_dns}
