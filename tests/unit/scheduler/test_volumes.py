"""Volumes: where a pod with claims may go, and what is said when it may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from tests.unit.scheduler.builders import (
    ZONE,
    feasible_nodes,
    make_cache,
    make_framework,
    make_informers,
    make_node,
    make_pod,
)
from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim
from tiphys.api.storage.v1 import CSINode, StorageClass
from tiphys.scheduler.podinfo import PodInfo


def volume(name: str, zone: str = "", size: str = "10Gi", phase: str = "Available", **more: Any) -> PersistentVolume:
    affinity = None
    if zone:
        expression = {"key": ZONE, "operator": "In", "values": [zone]}
        affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    raw = {
        "metadata": {"name": name, "uid": name, "labels": more.pop("labels", {})},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "local",
            "nodeAffinity": affinity,
            **more,
        },
        "status": {"phase": phase},
    }
    return msgspec.convert(raw, PersistentVolume)


def claim(name: str, bound_to: str = "", storage_class: str = "local", **more: Any) -> PersistentVolumeClaim:
    raw = {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "annotations": {"pv.kubernetes.io/bind-completed": "yes"} if bound_to else more.pop("annotations", {}),
        },
        "spec": {
            "accessModes": more.pop("modes", ["ReadWriteOnce"]),
            "resources": {"requests": {"storage": more.pop("size", "5Gi")}},
            "storageClassName": storage_class,
            "volumeName": bound_to,
        },
        "status": more,
    }
    return msgspec.convert(raw, PersistentVolumeClaim)


def storage_class(
    name: str, mode: str, provisioner: str = "kubernetes.io/no-provisioner", zone: str = ""
) -> StorageClass:
    topologies = [{"matchLabelExpressions": [{"key": ZONE, "values": [zone]}]}] if zone else []
    raw = {
        "metadata": {"name": name},
        "provisioner": provisioner,
        "volumeBindingMode": mode,
        "allowedTopologies": topologies,
    }
    return msgspec.convert(raw, StorageClass)


CLASSES = (
    storage_class("local", "WaitForFirstConsumer"),
    storage_class("immediate", "Immediate"),
    storage_class("dynamic", "WaitForFirstConsumer", "example.com/csi"),
    storage_class("zonal", "WaitForFirstConsumer", "example.com/csi", zone="2"),
)
NODES = (make_node("a", labels={ZONE: "1"}), make_node("b", labels={ZONE: "1"}), make_node("c", labels={ZONE: "2"}))


def with_claims(*names: str) -> PodInfo:
    volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in names]
    return make_pod(volumes=volumes)


def where(
    pod: PodInfo,
    claims: Sequence[PersistentVolumeClaim],
    volumes: Sequence[PersistentVolume] = (),
    placed: Mapping[str, Sequence[PodInfo]] | None = None,
) -> set[str] | str:
    informers = make_informers()
    informers.of(PersistentVolumeClaim).replace(claims, "1")
    informers.of(PersistentVolume).replace(volumes, "1")
    informers.of(StorageClass).replace(CLASSES, "1")
    return feasible_nodes(make_framework(informers=informers), make_cache(*NODES, placed=placed), pod)


@pytest.mark.parametrize(
    ("claims", "volumes", "expected"),
    [
        ([claim("x", "v")], [volume("v", "1", phase="Bound")], {"a", "b"}),
        ([claim("x", "v")], [volume("v", phase="Bound")], {"a", "b", "c"}),
        (
            [claim("x", "v")],
            [volume("v", "9", phase="Bound")],
            "0/3 nodes are available: 3 node(s) had volume node affinity conflict.",
        ),
        (
            [claim("x", "v")],
            [],
            "0/3 nodes are available: 3 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s).",
        ),
        ([], [], '0/3 nodes are available: persistentvolumeclaim "x" not found.'),
        (
            [claim("x", storage_class="immediate")],
            [volume("v")],
            "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
        ),
        ([claim("x")], [volume("v", "2")], {"c"}),
        (
            [claim("x", size="20Gi")],
            [volume("v", "2")],
            "0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind.",
        ),
        ([claim("x")], [volume("v", "2"), volume("w", "1", claimRef={"namespace": "default", "name": "y"})], {"c"}),
        ([claim("x", storage_class="dynamic")], [], {"a", "b", "c"}),
        ([claim("x", storage_class="zonal")], [], {"c"}),
        (
            [claim("x", storage_class="dynamic", annotations={"volume.kubernetes.io/selected-node": "b"})],
            [],
            {"b"},
        ),
        (
            [claim("x", "v")],
            [volume("v", labels={ZONE: "2"}, phase="Bound")],
            {"c"},
        ),
    ],
)
def test_one_claim(
    claims: Sequence[PersistentVolumeClaim], volumes: Sequence[PersistentVolume], expected: set[str] | str
) -> None:
    assert where(with_claims("x"), claims, volumes) == expected


def test_two_claims_need_two_volumes() -> None:
    claims = [claim("x"), claim("y")]
    assert where(with_claims("x", "y"), claims, [volume("v", "1"), volume("w", "2"), volume("u", "2")]) == {"c"}
    assert isinstance(where(with_claims("x", "y"), claims, [volume("v", "1"), volume("w", "2")]), str)


def test_read_write_once_pod() -> None:
    exclusive = claim("x", "v", modes=["ReadWriteOncePod"])
    user = with_claims("x")
    assert where(with_claims("x"), [exclusive], [volume("v", phase="Bound")]) == {"a", "b", "c"}
    assert where(with_claims("x"), [exclusive], [volume("v", phase="Bound")], {"a": [user]}) == (
        "0/3 nodes are available: 3 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod "
        "access mode."
    )


def csi(name: str, handle: str = "", driver: str = "example.com/csi") -> PersistentVolume:
    return volume(name, phase="Bound", csi={"driver": driver, "volumeHandle": handle or name})


def csi_node(name: str, limit: int | None, driver: str = "example.com/csi") -> CSINode:
    allocatable = None if limit is None else {"count": limit}
    drivers = [{"name": driver, "nodeID": name, "allocatable": allocatable}]
    return msgspec.convert({"metadata": {"name": name}, "spec": {"drivers": drivers}}, CSINode)


@pytest.mark.parametrize(
    ("limits", "wants", "expected"),
    [
        ({"a": 1, "b": 2}, ("x",), {"b", "c"}),  # one volume is on "a" and "b" already; "c" says nothing
        ({"a": 1, "b": 2}, ("x", "y"), {"c"}),
        ({"a": 1, "b": 2, "c": 1}, ("x", "y"), "0/3 nodes are available: 3 node(s) exceed max volume count."),
        ({"a": 1}, ("there",), {"a", "b", "c"}),  # the volume that is there counts once
        ({"a": 1}, ("twin",), {"a", "b", "c"}),  # another claim's name for the same volume
        ({"a": 1}, ("local",), {"a", "b", "c"}),  # no driver attaches it
        ({"a": 1, "b": 1}, ("new",), {"c"}),  # to be provisioned: will count
        ({"a": None}, ("x", "y"), {"a", "b", "c"}),
        ({"a": 0, "b": 0, "c": 0}, ("other",), {"a", "b", "c"}),  # another driver's
    ],
)
def test_a_driver_attaches_only_so_many_volumes(
    limits: Mapping[str, int | None], wants: tuple[str, ...], expected: set[str] | str
) -> None:
    claims = [claim(name, name) for name in ("x", "y", "there", "local", "other")]
    claims += [claim("twin", "twin"), claim("new", storage_class="dynamic")]
    volumes = [csi("x"), csi("y"), csi("there"), csi("twin", "there"), volume("local", phase="Bound")]
    volumes.append(csi("other", driver="other.example.com"))
    informers = make_informers()
    informers.of(PersistentVolumeClaim).replace(claims, "1")
    informers.of(PersistentVolume).replace(volumes, "1")
    informers.of(StorageClass).replace(CLASSES, "1")
    informers.of(CSINode).replace([csi_node(name, limit) for name, limit in limits.items()], "1")
    cache = make_cache(*NODES, placed={node: [with_claims("there")] for node in ("a", "b")})
    assert feasible_nodes(make_framework(informers=informers), cache, with_claims(*wants)) == expected
