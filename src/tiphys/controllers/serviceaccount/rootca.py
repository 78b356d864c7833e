"""Publishes the cluster's CA in every namespace, as the ConfigMap kube-root-ca.crt that pods mount."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import ConfigMap, Namespace
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import DONE, Controller, Result, enqueue
from tiphys.controllers.common.context import MANY_WORKERS, ControllerContext
from tiphys.controllers.common.podcontrol import namespace_terminating
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

CONFIG_MAP: Final = "kube-root-ca.crt"
DESCRIPTION: Final = "kubernetes.io/description"
DESCRIPTION_TEXT: Final = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters."
)


class RootCAPublisher(Controller[ObjectName]):
    """The controller `root-ca-certificate-publisher-controller`; its keys are namespaces."""

    name = "root_ca_cert_publisher"
    workers = MANY_WORKERS

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._ca = context.options.root_ca.decode()
        self._namespaces = context.informers.of(Namespace)
        self._maps = context.informers.of(ConfigMap, field_selector=f"metadata.name={CONFIG_MAP}")
        super().__init__(context.clock, (self._namespaces, self._maps))
        enqueue(self.queue, self._namespaces)
        self._maps.add_handler(None, lambda _, new: self._map_changed(new), self._map_changed)

    def _map_changed(self, found: ConfigMap) -> None:
        self.queue.add(ObjectName("", found.metadata.namespace))

    async def sync(self, key: ObjectName) -> Result:
        """Make or mend the namespace's copy."""
        namespace = self._namespaces.lister.get(key)
        if namespace is None or namespace.status.phase == "Terminating" or not self._ca:
            return DONE
        data = {"ca.crt": self._ca}
        current = self._maps.lister.get(ObjectName(key.name, CONFIG_MAP))
        try:
            if current is None:
                metadata = ObjectMeta(name=CONFIG_MAP, namespace=key.name, annotations={DESCRIPTION: DESCRIPTION_TEXT})
                await self._client.create(ConfigMap(metadata=metadata, data=data))
            elif dict(current.data) != data or DESCRIPTION not in current.metadata.annotations:
                annotations = {**current.metadata.annotations, DESCRIPTION: DESCRIPTION_TEXT}
                metadata = replace(current.metadata, annotations=annotations)
                await self._client.update(replace(current, metadata=metadata, data=data))
        except (AlreadyExistsError, NotFoundError):
            return DONE
        except StatusError as error:
            if not namespace_terminating(error):
                raise
        return DONE
