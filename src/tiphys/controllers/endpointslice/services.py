"""Finding the Services that a pod is part of."""

from __future__ import annotations

from collections.abc import Callable

from tiphys.api.core.v1 import Pod, Service
from tiphys.client import Lister, SharedInformer, key_of
from tiphys.machinery.meta import ObjectName


def selects(service: Service, pod: Pod) -> bool:
    """Whether the Service's selector matches; a Service without one selects nothing."""
    selector = service.spec.selector
    return bool(selector) and selector.items() <= pod.metadata.labels.items()


def watch_pods(pods: SharedInformer[Pod], services: Lister[Service], queue: Callable[[ObjectName], None]) -> None:
    """Queue the Services of every pod that changes in what endpoints show."""

    def changed(pod: Pod) -> None:
        for service in services.list(pod.metadata.namespace):
            if selects(service, pod):
                queue(key_of(service))

    def updated(old: Pod, new: Pod) -> None:
        if old.metadata.labels != new.metadata.labels:
            changed(old)
            changed(new)
        elif _visible(old) != _visible(new) or old is new:
            changed(new)

    pods.add_handler(changed, updated, changed)


def _visible(pod: Pod) -> tuple[object, ...]:
    ready = [(condition.type, condition.status) for condition in pod.status.conditions if condition.type == "Ready"]
    return (
        pod.status.pod_ips,
        pod.status.pod_ip,
        pod.status.phase in ("Succeeded", "Failed"),
        pod.metadata.deletion_timestamp is not None,
        ready,
        pod.spec.node_name,
        pod.spec.hostname,
        pod.spec.subdomain,
    )
