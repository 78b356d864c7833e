"""DefaultBinder: writes the decision through the pod's binding subresource."""

from __future__ import annotations

from typing import ClassVar

from tiphys.api.core.v1 import Binding, ObjectReference, Pod
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import Client
from tiphys.scheduler.framework.events import Requeue
from tiphys.scheduler.framework.interface import CycleState
from tiphys.scheduler.podinfo import PodInfo


class DefaultBinder:
    name: ClassVar[str] = "DefaultBinder"
    requeue_on: ClassVar[Requeue] = {}

    def __init__(self, client: Client) -> None:
        self._client = client

    async def bind(self, state: CycleState, pod: PodInfo, node: str) -> bool:
        binding = Binding(
            metadata=ObjectMeta(namespace=pod.key.namespace, name=pod.key.name, uid=pod.uid),
            target=ObjectReference(kind="Node", name=node),
        )
        await self._client.create_subresource(Pod, pod.key, "binding", binding)
        return True
