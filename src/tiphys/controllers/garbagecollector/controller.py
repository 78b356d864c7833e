"""Deletes objects whose owners are gone, and finishes foreground and orphan deletions.

The graph only says where to look. Before it deletes, the collector reads the object from the
server, judges each of its owners, and deletes exactly the version it judged:

    all owners gone or deleting in the foreground  ──► delete it, with the policy its finalizers name
    some owner is there                            ──► take the references to the others away
    it waits for dependents (foreground)           ──► look at those; none block it: remove the finalizer
    it leaves its dependents (orphan)              ──► take its reference from each, then the finalizer
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import ObjectReference
from tiphys.api.meta.v1 import OwnerReference
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client import DONE, WARNING, ApiResource, Client, Controller, PartialObject, Preconditions, Result
from tiphys.client.waiting import wait_at_most, wait_until
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.garbagecollector.graph import FOREGROUND, ORPHAN, Graph, GraphNode, Identity
from tiphys.controllers.garbagecollector.monitors import Monitors
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

REFRESH_SECONDS: Final = 30.0
# The first list of every kind is waited for this long.
SYNC_SECONDS: Final = 30.0
# New kinds are looked for this soon after a CustomResourceDefinition or APIService changed.
SETTLE_SECONDS: Final = 1.0
ABSENT_CACHE: Final = 500
_KIND_SOURCES: Final = frozenset({"CustomResourceDefinition", "APIService"})


class GarbageCollector(Controller[str]):
    """The controller `garbage-collector-controller`; its keys are uids."""

    name = "garbage_collector_attempt_to_delete"
    workers = 20

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context.clock)
        self._client = context.client
        self._recorder = context.recorder("garbage-collector-controller")
        self.graph = Graph()
        # Owners known to be gone, with the namespace they were looked for in.
        self._known_absent: dict[tuple[str, str], None] = {}
        self._kinds_changed = asyncio.Event()
        self._monitors = Monitors(context.client, context.informers, self._seen, self._gone)

    async def run(self, workers: int = 0) -> None:
        """Work until cancelled, after every kind has been listed once: a half graph makes more questions.

        A kind that cannot be listed (its conversion webhook is away) holds up nobody but its own objects.
        """
        while not await self._monitors.refresh_quietly():
            await self.clock.sleep(SETTLE_SECONDS)
        if not await wait_at_most(self._monitors.synced(), self.clock, SYNC_SECONDS):
            log.warning("not all kinds could be listed within %d seconds; going on without the rest", SYNC_SECONDS)
        await super().run(workers)

    def start(self, tasks: Supervised) -> None:
        tasks.spawn(self._follow_kinds, name="garbage collector kinds", restart=True)

    async def _follow_kinds(self) -> None:
        while True:
            failed = not await self._monitors.refresh_quietly() or bool(self._monitors.discovery.failed)
            # Without aggregated servers that are down, kinds change only with the objects that define them.
            await wait_until(self._kinds_changed, self.clock, REFRESH_SECONDS if failed else 10 * REFRESH_SECONDS)
            await self.clock.sleep(SETTLE_SECONDS)
            self._kinds_changed.clear()

    def _seen(self, identity: Identity, obj: PartialObject) -> None:
        for uid in self.graph.observe(identity, obj.metadata):
            self.queue.add(uid)
        if identity.kind in _KIND_SOURCES:
            self._kinds_changed.set()

    def _gone(self, identity: Identity, obj: PartialObject) -> None:
        self._note_absent(identity.uid, identity.namespace)
        for uid in self.graph.gone(identity.uid):
            self.queue.add(uid)
        if identity.kind in _KIND_SOURCES:
            self._kinds_changed.set()

    async def sync(self, key: str) -> Result:
        """Look at one object and do what its owners ask for."""
        node = self.graph.nodes.get(key)
        if node is None:
            return DONE
        if self._is_settled(node):
            return DONE
        if node.orphaning:
            await self._orphan(node)
        elif node.virtual or not node.deleting or node.foreground:
            await self._collect(node)
        return DONE

    def _is_settled(self, node: GraphNode) -> bool:
        """Whether every owner it names is known to be there: then the server need not be asked.

        When a manager starts, dependents are often listed before their owners; by now those have come too.
        """
        if node.virtual or node.deleting:
            return False
        owners = [(owner, self.graph.nodes.get(owner.uid)) for owner in node.owners]
        return all(
            known is not None and not known.virtual and not known.deleting and known.is_what(owner, node)
            for owner, known in owners
        )

    async def _collect(self, node: GraphNode) -> None:
        resource = self._resource(node.identity)
        if resource is None:
            if node.virtual:
                # Nobody serves this kind: what refers to it can be judged no better than before.
                return
            raise LookupError(f"no resource serves {node.identity}")
        try:
            live = await self._client.get(resource.endpoint, _name(resource, node.identity))
        except NotFoundError:
            live = None
        if live is None or live.metadata.uid != node.identity.uid:
            self._absent(node)
            return
        if node.virtual:
            return  # it is there; its own event will make it real
        if node.foreground:
            await self._wait_for_dependents(node, resource, live)
            return
        if live.metadata.deletion_timestamp is None:
            await self._judge(node, resource, live)

    def _absent(self, node: GraphNode) -> None:
        """The server does not have it (any more): so its dependents lost an owner."""
        dependents = set(node.dependents)
        look = self.graph.gone(node.identity.uid)
        for uid in look | dependents:
            self.queue.add(uid)

    async def _wait_for_dependents(self, node: GraphNode, resource: ApiResource, live: PartialObject) -> None:
        blocking = node.blocking_dependents()
        if not blocking:
            await self._drop_finalizer(resource, live, FOREGROUND)
        for dependent in blocking:
            if not dependent.deleting:
                self.queue.add(dependent.identity.uid)

    async def _judge(self, node: GraphNode, resource: ApiResource, live: PartialObject) -> None:
        """Delete the object, or take from it the references to owners that are gone."""
        owners = live.metadata.owner_references
        if not owners:
            return
        verdicts = [await self._verdict(node, owner) for owner in owners]
        solid = [owner for owner, verdict in zip(owners, verdicts, strict=True) if verdict == "solid"]
        waiting = "waiting" in verdicts
        if solid:
            if len(solid) < len(owners):
                await _set_owners(self._client, resource, live, solid)
            return
        policy = "Background"
        if waiting and node.dependents:
            # Its own dependents go first, so that the owner that waits is not done too early.
            policy = "Foreground"
            if any(dependent.foreground for dependent in node.dependents.values()):
                # One of those may wait for it in turn, at the end of a circle: this one keeps nobody waiting.
                live = await _unblock_owners(self._client, resource, live)
        elif ORPHAN in live.metadata.finalizers:
            policy = "Orphan"
        elif FOREGROUND in live.metadata.finalizers:
            policy = "Foreground"
        only_if = Preconditions(uid=live.metadata.uid, resource_version=live.metadata.resource_version)
        log.debug("deleting %s with policy %s", node.identity, policy)
        with suppress(NotFoundError):
            await self._client.delete(
                resource.endpoint, _name(resource, node.identity), only_if=only_if, propagation=policy
            )

    async def _verdict(self, node: GraphNode, owner: OwnerReference) -> str:
        """`solid`: the owner is there; `waiting`: it is, and waits for its dependents to go; `dangling`: it is not."""
        known = self.graph.nodes.get(owner.uid)
        if known is not None and not known.virtual and known.is_what(owner, node):
            return "waiting" if known.foreground else "solid"
        resource = self._monitors.find(owner.api_version, owner.kind)
        if resource is None:
            await self._monitors.refresh()
            resource = self._monitors.find(owner.api_version, owner.kind)
        if resource is None:
            raise LookupError(f"no resource serves owner {owner.api_version} {owner.kind} of {node.identity}")
        if resource.namespaced and not node.identity.namespace:
            self._invalid_namespace(node, owner)
            return "solid"
        namespace = node.identity.namespace if resource.namespaced else ""
        if (owner.uid, namespace) in self._known_absent:
            return "dangling"
        try:
            live = await self._client.get(resource.endpoint, ObjectName(namespace, owner.name))
        except NotFoundError:
            live = None
        if live is None or live.metadata.uid != owner.uid:
            self._note_absent(owner.uid, namespace)
            self._invalid_namespace(node, owner)
            return "dangling"
        waits = live.metadata.deletion_timestamp is not None and FOREGROUND in live.metadata.finalizers
        return "waiting" if waits else "solid"

    def _note_absent(self, uid: str, namespace: str) -> None:
        """A uid never comes back, so this stays true; the oldest entries go when there are many."""
        self._known_absent[uid, namespace] = None
        if len(self._known_absent) > ABSENT_CACHE:
            del self._known_absent[next(iter(self._known_absent))]

    def _invalid_namespace(self, node: GraphNode, owner: OwnerReference) -> None:
        """Tell who wrote a reference across namespaces, when the owner is known to live elsewhere."""
        known = self.graph.nodes.get(owner.uid)
        if known is None or known.virtual or known.identity.namespace in ("", node.identity.namespace):
            return
        text = (
            f"[{owner.api_version}/{owner.kind}, namespace: {node.identity.namespace}, name: {owner.name}, "
            f"uid: {owner.uid}]"
        )
        place = f" in namespace {node.identity.namespace!r}".replace("'", '"')
        identity = node.identity
        reference = ObjectReference(
            api_version=identity.api_version,
            kind=identity.kind,
            namespace=identity.namespace,
            name=identity.name,
            uid=identity.uid,
        )
        self._recorder.event(reference, WARNING, "OwnerRefInvalidNamespace", f"ownerRef {text} does not exist{place}")

    async def _orphan(self, node: GraphNode) -> None:
        """Let the dependents live: take the reference from each, then let the owner go."""
        for dependent in list(node.dependents.values()):
            resource = self._resource(dependent.identity)
            if resource is None:
                continue
            with suppress(NotFoundError):
                live = await self._client.get(resource.endpoint, _name(resource, dependent.identity))
                kept = [owner for owner in live.metadata.owner_references if owner.uid != node.identity.uid]
                if len(kept) < len(live.metadata.owner_references):
                    await _set_owners(self._client, resource, live, kept)
        resource = self._resource(node.identity)
        if resource is not None:
            with suppress(NotFoundError):
                live = await self._client.get(resource.endpoint, _name(resource, node.identity))
                if live.metadata.uid == node.identity.uid:
                    await self._drop_finalizer(resource, live, ORPHAN)

    async def _drop_finalizer(self, resource: ApiResource, live: PartialObject, finalizer: str) -> None:
        if finalizer not in live.metadata.finalizers:
            return
        kept = [name for name in live.metadata.finalizers if name != finalizer]
        meta = {"resourceVersion": live.metadata.resource_version, "uid": live.metadata.uid, "finalizers": kept}
        key = ObjectName(live.metadata.namespace, live.metadata.name)
        with suppress(NotFoundError):
            await self._client.patch(resource.endpoint, key, {"metadata": meta})

    def _resource(self, identity: Identity) -> ApiResource | None:
        return self._monitors.find(identity.api_version, identity.kind)


def _name(resource: ApiResource, identity: Identity) -> ObjectName:
    return ObjectName(identity.namespace if resource.namespaced else "", identity.name)


async def _unblock_owners(client: Client, resource: ApiResource, live: PartialObject) -> PartialObject:
    """Let the owners go before their dependent; the object as it is then."""
    owners = [replace(owner, block_owner_deletion=False) for owner in live.metadata.owner_references]
    return await _set_owners(client, resource, live, owners)


async def _set_owners(
    client: Client, resource: ApiResource, live: PartialObject, owners: list[OwnerReference]
) -> PartialObject:
    """Write the references of exactly this version of an object; a merge patch works for every kind."""
    meta = {
        "resourceVersion": live.metadata.resource_version,
        "uid": live.metadata.uid,
        "ownerReferences": owners or None,
    }
    key = ObjectName(live.metadata.namespace, live.metadata.name)
    return await client.patch(resource.endpoint, key, {"metadata": meta})
