"""Which endpoints serve a service port on this node: readiness, termination, traffic policy, hints.

https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-policies (KEP-1669 for
terminating endpoints, KEP-2433 and KEP-3015 for hints and traffic distribution).
"""

from __future__ import annotations

from collections.abc import Sequence

from tiphys.proxy.model import Choice, Endpoint, Place, ServicePort


def choose(service: ServicePort, endpoints: Sequence[Endpoint], place: Place) -> Choice:
    """Decide by the table of the documentation.

    Ready endpoints are used; when a policy finds none, those that are terminating but still
    serving. Cluster endpoints are narrowed by topology hints, local ones never.
    """
    cluster: tuple[Endpoint, ...] = ()
    local: tuple[Endpoint, ...] = ()
    # A Service that answers from outside needs them even with policy Local: traffic that starts
    # in the cluster takes the short way to any endpoint.
    if not service.internal_local or service.is_external:
        ready = [each for each in endpoints if each.ready]
        cluster = tuple(hinted(ready, place)) or tuple(each for each in endpoints if each.is_draining)
    if service.internal_local or (service.external_local and service.is_external):
        here = [each for each in endpoints if each.is_local]
        local = tuple(each for each in here if each.ready) or tuple(each for each in here if each.is_draining)
    return Choice(cluster=cluster, local=local, any_anywhere=any(each.ready or each.is_draining for each in endpoints))


def hinted(ready: Sequence[Endpoint], place: Place) -> Sequence[Endpoint]:
    """The ready endpoints meant for this place: same node, else same zone, else all.

    A kind of hint counts only when every endpoint carries it; one without would be starved.
    """
    if ready and all(each.nodes for each in ready):
        here = [each for each in ready if place.node in each.nodes]
        if here:
            return here
    if place.zone and ready and all(each.zones for each in ready):
        near = [each for each in ready if place.zone in each.zones]
        if near:
            return near
    return ready
