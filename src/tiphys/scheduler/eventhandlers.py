"""From what the informers see to the cache and the queue.

A pod belongs in the queue while it has no node and names one of our profiles, and in the cache while it has one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from tiphys.api.core.v1 import Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod
from tiphys.api.resource.v1 import DeviceClass, ResourceClaim, ResourceSlice
from tiphys.api.storage.v1 import CSINode, StorageClass
from tiphys.client import Informers, Lister, SharedInformer
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.selectors import LabelSelector
from tiphys.scheduler.cache import Cache
from tiphys.scheduler.framework.events import Event
from tiphys.scheduler.nominator import NominatedPods
from tiphys.scheduler.podinfo import PodInfo
from tiphys.scheduler.queue import SchedulingQueue

# Pods that have ended hold nothing.
NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"


class EventHandlers:
    """Registers itself with the informers."""

    def __init__(
        self,
        informers: Informers,
        cache: Cache,
        queue: SchedulingQueue,
        nominated: NominatedPods,
        names: Container[str],
    ) -> None:
        """`names`: the scheduler names we answer to."""
        self._cache = cache
        self._queue = queue
        self._nominated = nominated
        self._names = names
        self.pods: SharedInformer[Pod] = informers.of(Pod, field_selector=NOT_ENDED)
        self.nodes: SharedInformer[Node] = informers.of(Node)
        self.namespaces: SharedInformer[Namespace] = informers.of(Namespace)
        # Nodes first: a list of pods then finds its nodes known.
        self.nodes.add_handler(self.node_added, self.node_updated, self.node_deleted)
        self.pods.add_handler(self.pod_added, self.pod_updated, self.pod_deleted)
        self._follow(informers.of(PersistentVolumeClaim), Event.CLAIM)
        self._follow(informers.of(PersistentVolume), Event.VOLUME)
        self._follow(informers.of(StorageClass), Event.STORAGE_CLASS)
        self._follow(informers.of(CSINode), Event.CSI_NODE)
        self._follow(informers.of(ResourceClaim), Event.RESOURCE_CLAIM)
        self._follow(informers.of(ResourceSlice), Event.RESOURCE_SLICE)
        self._follow(informers.of(DeviceClass), Event.DEVICE_CLASS)
        self.namespaces.add_handler(self._namespace_changed, self.namespace_updated, self._namespace_changed)

    def _follow(self, informer: SharedInformer[Any], event: Event) -> None:
        """Tell the queue of every change of a kind."""
        informer.add_handler(
            lambda new: self._queue.happened(event, None, new),
            lambda old, new: self._queue.happened(event, old, new),
            lambda old: self._queue.happened(event, old, None),
        )

    # Pods

    def pod_added(self, pod: Pod) -> None:
        info = PodInfo(pod)
        if pod.spec.node_name:
            self._placed(info)
        elif pod.spec.scheduler_name in self._names:
            if pod.status.nominated_node_name:
                self._nominated.nominate(info, pod.status.nominated_node_name)
            self._queue.add(info)

    def pod_updated(self, old: Pod, new: Pod) -> None:
        if new.spec.node_name:
            info = PodInfo(new)
            if old.spec.node_name:
                self._placed_updated(self._cache.placed(info.uid) or PodInfo(old), info)
            else:
                self._placed(info)
        elif new.spec.scheduler_name in self._names and not self._cache.is_assumed(new.metadata.uid):
            if _only_status(old, new):
                # What was written about the pod, by us mostly: nothing to decide anew.
                waiting = self._queue.waiting(new.metadata.uid)
                if waiting is not None:
                    waiting.info.pod = new
                return
            self._queue.update(PodInfo(old), PodInfo(new))

    def pod_deleted(self, pod: Pod) -> None:
        uid = pod.metadata.uid
        self._nominated.forget(uid)
        known = self._cache.remove_pod(uid)
        self._queue.delete(uid)
        self._queue.happened(Event.POD_DELETE, known or PodInfo(pod), None)

    def _placed(self, info: PodInfo) -> None:
        self._nominated.forget(info.uid)
        self._queue.delete(info.uid)
        self._cache.set_pod(info, info.node_name)
        self._queue.happened(Event.POD_ADD, None, info)

    def _placed_updated(self, old: PodInfo, new: PodInfo) -> None:
        differs = old.class_key != new.class_key or old.requests != new.requests
        self._cache.set_pod(new, new.node_name)
        if differs:
            self._queue.happened(Event.POD_UPDATE, old, new)

    # Nodes

    def node_added(self, node: Node) -> None:
        self._cache.set_node(node)
        self._queue.happened(Event.NODE_ADD, None, node)

    def node_updated(self, old: Node, new: Node) -> None:
        self._cache.set_node(new)
        for event in node_changes(old, new):
            self._queue.happened(event, old, new)

    def node_deleted(self, node: Node) -> None:
        self._cache.remove_node(node.metadata.name)
        self._queue.happened(Event.NODE_DELETE, node, None)

    # Namespaces

    def namespace_updated(self, old: Namespace, new: Namespace) -> None:
        if old.metadata.labels != new.metadata.labels:
            self._cache.nodes.pods.namespaces_changed()
            self._queue.happened(Event.NAMESPACE_LABEL, old, new)

    def _namespace_changed(self, _: Namespace) -> None:
        self._cache.nodes.pods.namespaces_changed()


def node_changes(old: Node, new: Node) -> list[Event]:
    """What of a node changed that a pod could have waited for."""
    changes = []
    if old.status.allocatable != new.status.allocatable:
        changes.append(Event.NODE_ALLOCATABLE)
    if old.metadata.labels != new.metadata.labels:
        changes.append(Event.NODE_LABEL)
    if old.spec.taints != new.spec.taints or old.spec.unschedulable != new.spec.unschedulable:
        changes.append(Event.NODE_TAINT)
    if old.status.declared_features != new.status.declared_features:
        changes.append(Event.NODE_DECLARED_FEATURE)
    return changes


def _only_status(old: Pod, new: Pod) -> bool:
    return (
        old.spec == new.spec
        and old.metadata.labels == new.metadata.labels
        and old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        # Written by a controller: the names of claims made from templates.
        and old.status.resource_claim_statuses == new.status.resource_claim_statuses
    )


class NamespaceLister:
    """Implements `handle.Namespaces`."""

    def __init__(self, namespaces: Lister[Namespace]) -> None:
        self._namespaces = namespaces

    def labels(self, name: str) -> Mapping[str, str]:
        namespace = self._namespaces.get(ObjectName("", name))
        return {} if namespace is None else namespace.metadata.labels

    def matching(self, selector: LabelSelector) -> Iterable[str]:
        return [one.metadata.name for one in self._namespaces.list() if selector.matches(one.metadata.labels)]
