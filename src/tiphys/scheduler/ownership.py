"""Which selector holds the pods that belong together: by the Services that match a pod and its controller."""

from __future__ import annotations

from typing import Any

from tiphys.api.apps.v1 import ReplicaSet, StatefulSet
from tiphys.api.core.v1 import ReplicationController, Service
from tiphys.client import Informers
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.selectors import LabelSelector
from tiphys.scheduler.podinfo import PodInfo


class Ownership:
    """Answers `selector` from caches; what Services say is remembered a class of pods until a Service changes."""

    def __init__(self, informers: Informers) -> None:
        self._services = informers.of(Service)
        self._replica_sets = informers.of(ReplicaSet)
        self._stateful_sets = informers.of(StatefulSet)
        self._controllers = informers.of(ReplicationController)
        self._by_services: dict[Any, dict[str, str]] = {}
        self._services.add_handler(self._forget, self._service_updated, self._forget)

    def selector(self, pod: PodInfo) -> LabelSelector | None:
        """Of all pods that are spread together with `pod`; None when nothing says."""
        labels = self._service_labels(pod)
        owner = self._owner_selector(pod)
        requirements = LabelSelector.of_labels(labels).requirements
        if owner is not None:
            requirements = tuple(dict.fromkeys((*requirements, *owner.requirements)))
        return LabelSelector(requirements) if requirements else None

    def _service_labels(self, pod: PodInfo) -> dict[str, str]:
        key = pod.class_key[:2]
        merged = self._by_services.get(key)
        if merged is None:
            merged = {}
            for service in self._services.lister.list(pod.namespace):
                selector = service.spec.selector
                if selector and all(pod.labels.get(name) == value for name, value in selector.items()):
                    merged |= selector
            if len(self._by_services) >= 10_000:
                self._by_services.clear()
            self._by_services[key] = merged
        return merged

    def _owner_selector(self, pod: PodInfo) -> LabelSelector | None:
        owner = next((owner for owner in pod.pod.metadata.owner_references if owner.controller), None)
        if owner is None:
            return None
        name = ObjectName(pod.namespace, owner.name)
        match owner.kind:
            case "ReplicaSet":
                replica_set = self._replica_sets.lister.get(name)
                return None if replica_set is None else LabelSelector.of_dict(replica_set.spec.selector)
            case "StatefulSet":
                stateful_set = self._stateful_sets.lister.get(name)
                return None if stateful_set is None else LabelSelector.of_dict(stateful_set.spec.selector)
            case "ReplicationController":
                controller = self._controllers.lister.get(name)
                return None if controller is None else LabelSelector.of_labels(controller.spec.selector)
        return None

    def _forget(self, _: Service) -> None:
        self._by_services.clear()

    def _service_updated(self, old: Service, new: Service) -> None:
        if old.spec.selector != new.spec.selector:
            self._by_services.clear()
