"""A load balancer for each Service of type LoadBalancer, by the provider.

A finalizer is on the Service before its load balancer is made and comes off once that is gone, so
none is ever left behind. Services with a loadBalancerClass belong to someone else.
https://kubernetes.io/docs/concepts/services-networking/service/#loadbalancer
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import LoadBalancerStatus, Node, Service, ServiceStatus
from tiphys.client import DONE, NORMAL, WARNING, Controller, Result, enqueue, key_of
from tiphys.controllers.cloud.provider import LoadBalancers
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

FINALIZER: Final = "service.kubernetes.io/load-balancer-cleanup"
EXCLUDED: Final = "node.kubernetes.io/exclude-from-external-load-balancers"
# Nodes that are about to be removed get no new connections.
DRAINED: Final = "ToBeDeletedByClusterAutoscaler"


def wants_load_balancer(service: Service) -> bool:
    """Whether the Service asks this controller for one."""
    return service.spec.type == "LoadBalancer" and not service.spec.load_balancer_class


def is_target(node: Node) -> bool:
    """Whether load balancers may send to the node."""
    leaving = any(taint.key == DRAINED for taint in node.spec.taints)
    return EXCLUDED not in node.metadata.labels and not leaving and node.metadata.deletion_timestamp is None


class ServiceLBController(Controller[ObjectName]):
    """The controller `service-lb-controller`; without a provider of load balancers it has nothing to do."""

    name = "service"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("service-controller")
        self._provider: LoadBalancers | None = context.options.cloud_provider.load_balancers
        self._services = context.informers.of(Service)
        self._nodes = context.informers.of(Node)
        self._sent_to: dict[ObjectName, tuple[str, ...]] = {}
        super().__init__(context.clock, (self._services, self._nodes))
        if self._provider is None:
            return
        enqueue(self.queue, self._services)
        self._nodes.add_handler(
            lambda _: self._services.resync(), self._node_changed, lambda _: self._services.resync()
        )

    def _node_changed(self, old: Node, new: Node) -> None:
        if is_target(old) != is_target(new):
            self._services.resync()

    async def sync(self, key: ObjectName) -> Result:
        """Make, update or remove the load balancer of one Service."""
        service = self._services.lister.get(key)
        if service is None or self._provider is None:
            self._sent_to.pop(key, None)
            return DONE
        try:
            if wants_load_balancer(service) and service.metadata.deletion_timestamp is None:
                await self._ensure(self._provider, service)
            elif FINALIZER in service.metadata.finalizers:
                await self._remove(self._provider, service)
        except NotFoundError:
            raise
        except Exception as error:
            self._recorder.event(service, WARNING, "SyncLoadBalancerFailed", f"Error syncing load balancer: {error}")
            raise
        return DONE

    async def _ensure(self, provider: LoadBalancers, service: Service) -> None:
        if FINALIZER not in service.metadata.finalizers:
            finalizers = (*service.metadata.finalizers, FINALIZER)
            metadata = replace(service.metadata, finalizers=finalizers)
            service = await self._client.update(replace(service, metadata=metadata))
        nodes = [node for node in self._nodes.lister.list() if is_target(node)]
        names = (service.metadata.uid, str(service.metadata.generation), *sorted(key_of(node).name for node in nodes))
        key, known = key_of(service), self._sent_to.get(key_of(service))
        if known == names:
            return
        if known is not None and known[:2] == names[:2]:
            await provider.update_nodes(service, nodes)
            self._recorder.event(service, NORMAL, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
        else:
            self._recorder.event(service, NORMAL, "EnsuringLoadBalancer", "Ensuring load balancer")
            await self._write(service, await provider.ensure(service, nodes))
            self._recorder.event(service, NORMAL, "EnsuredLoadBalancer", "Ensured load balancer")
        self._sent_to[key] = names

    async def _remove(self, provider: LoadBalancers, service: Service) -> None:
        self._recorder.event(service, NORMAL, "DeletingLoadBalancer", "Deleting load balancer")
        await provider.delete(service)
        self._sent_to.pop(key_of(service), None)
        if service.metadata.deletion_timestamp is None:
            service = await self._write(service, LoadBalancerStatus())
        finalizers = tuple(name for name in service.metadata.finalizers if name != FINALIZER)
        with suppress(NotFoundError):
            metadata = replace(service.metadata, finalizers=finalizers)
            await self._client.update(replace(service, metadata=metadata))
        self._recorder.event(service, NORMAL, "DeletedLoadBalancer", "Deleted load balancer")

    async def _write(self, service: Service, found: LoadBalancerStatus) -> Service:
        status = service.status or ServiceStatus()
        if (status.load_balancer or LoadBalancerStatus()) == found:
            return service
        return await self._client.update_status(replace(service, status=replace(status, load_balancer=found)))
