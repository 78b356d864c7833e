"""What an update of a service carries over or drops, so that clients need not repeat what was allocated for them.

A client that changes only the type does not mean to keep the ports of the old type; one that leaves an allocated field
out does not mean to give it up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tiphys.apiserver.registry.strategy import Object

Json = Mapping[str, Any]


def needs_cluster_ip(spec: Json) -> bool:
    return spec.get("type") in ("ClusterIP", "NodePort", "LoadBalancer")


def needs_node_port(spec: Json) -> bool:
    kind = spec.get("type")
    return kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False)


def needs_health_check_port(spec: Json) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def externally_accessible(spec: Json) -> bool:
    kind = spec.get("type")
    return kind in ("LoadBalancer", "NodePort") or (kind == "ClusterIP" and bool(spec.get("externalIPs")))


def cluster_ips(spec: Json) -> Sequence[str]:
    return spec.get("clusterIPs") or ()


def is_headless(spec: Json) -> bool:
    ips = cluster_ips(spec)
    return (ips[0] if ips else spec.get("clusterIP")) == "None"


def normalize_cluster_ips(spec: Object, old: Json | None) -> None:
    """clusterIP and clusterIPs say the same: a client that knows only the first changes both."""
    single, every = spec.get("clusterIP") or "", list(cluster_ips(spec))
    if old is None:
        if single and not every:
            spec["clusterIPs"] = [single]
        return
    old_single, old_every = old.get("clusterIP") or "", list(cluster_ips(old))
    if single != old_single and every == old_every:
        if single:
            spec["clusterIPs"] = [single]
        else:
            spec.pop("clusterIPs", None)
    elif single and not every:
        spec["clusterIPs"] = [single]


def patch_allocated_values(spec: Object, old: Json) -> None:
    """Fill in allocated values that the client left out."""
    if needs_cluster_ip(old) and needs_cluster_ip(spec):
        if not spec.get("clusterIP") and old.get("clusterIP"):
            spec["clusterIP"] = old["clusterIP"]
        if not cluster_ips(spec) and cluster_ips(old) and spec.get("clusterIP") == old.get("clusterIP"):
            spec["clusterIPs"] = list(cluster_ips(old))
    if needs_node_port(old) and needs_node_port(spec):
        _patch_node_ports(spec.get("ports") or (), old.get("ports") or ())
    both = needs_health_check_port(old) and needs_health_check_port(spec)
    if both and not spec.get("healthCheckNodePort") and old.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = old["healthCheckNodePort"]


def _patch_node_ports(ports: Sequence[Object], old: Sequence[Json]) -> None:
    """A port without a node port gets the one that its protocol and number had."""
    taken = {(one.get("protocol"), one["nodePort"]) for one in ports if one.get("nodePort")}
    known = {(one.get("protocol"), one.get("port")): one.get("nodePort") for one in old}
    for port in ports:
        if port.get("nodePort"):
            continue
        before = known.get((port.get("protocol"), port.get("port")))
        if before and (port.get("protocol"), before) not in taken:
            port["nodePort"] = before
            taken.add((port.get("protocol"), before))


def drop_type_dependent_fields(spec: Object, old: Json) -> None:
    """A change of type takes with it the fields of the old type that the client left as they were."""
    if needs_cluster_ip(old) and not needs_cluster_ip(spec):
        if spec.get("clusterIP") == old.get("clusterIP") and list(cluster_ips(spec)) == list(cluster_ips(old)):
            spec.pop("clusterIP", None)
            spec.pop("clusterIPs", None)
        for name in ("ipFamilies", "ipFamilyPolicy"):
            _drop_same(spec, old, name)
    if needs_node_port(old) and not needs_node_port(spec) and _same_node_ports(spec, old):
        for port in spec.get("ports") or ():
            port.pop("nodePort", None)
    if needs_health_check_port(old) and not needs_health_check_port(spec):
        _drop_same(spec, old, "healthCheckNodePort")
    if old.get("type") == "LoadBalancer" and spec.get("type") != "LoadBalancer":
        _drop_same(spec, old, "allocateLoadBalancerNodePorts")
        _drop_same(spec, old, "loadBalancerClass")
    if externally_accessible(old) and not externally_accessible(spec):
        _drop_same(spec, old, "externalTrafficPolicy")
    if old.get("type") != "ExternalName" and spec.get("type") == "ExternalName":
        _drop_same(spec, old, "internalTrafficPolicy")


def _drop_same(spec: Object, old: Json, name: str) -> None:
    if spec.get(name) == old.get(name):
        spec.pop(name, None)


def _same_node_ports(spec: Json, old: Json) -> bool:
    """Whether no node port was asked for that the old service did not have."""
    before = {one.get("nodePort") for one in old.get("ports") or ()}
    return all(not one.get("nodePort") or one["nodePort"] in before for one in spec.get("ports") or ())
