"""Every controller that has no fault test of its own: through faults and a restart it ends where it ends without them.

A scenario puts objects, then changes something. It is run once undisturbed, and again with requests
that fail or lose their answers and watches that break, stall, repeat and expire, and with a second
manager taking over half way. What is stored at the end must be the same, but for what is random by
nature: times, uids, generated names, signatures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.controllers.harness import Json, Make, World, pod, template
from tests.unit.controllers.test_nodes import LEASES, lease, node
from tests.unit.controllers.test_persistentvolumes import claim
from tests.unit.controllers.test_policies import authority, request, token
from tests.unit.controllers.test_resourceclaim import allocated, user
from tests.unit.controllers.test_small import with_ephemeral
from tiphys.controllers.attachdetach import AttachDetachController
from tiphys.controllers.bootstrap import BootstrapSignerController, TokenCleanerController
from tiphys.controllers.certificates import CSRCleanerController, CSRSigningController
from tiphys.controllers.clusterroleaggregation import ClusterRoleAggregationController
from tiphys.controllers.common.context import Options
from tiphys.controllers.disruption import DisruptionController
from tiphys.controllers.endpointslice import EndpointSliceMirroringController
from tiphys.controllers.nodeipam import NodeIpamController
from tiphys.controllers.nodelifecycle import NodeLifecycleController
from tiphys.controllers.persistentvolume import EphemeralVolumeController, VACProtectionController
from tiphys.controllers.podgc import PodGCController
from tiphys.controllers.replicaset import REPLICATION_CONTROLLERS, ReplicaSetController
from tiphys.controllers.resourceclaim import ResourceClaimController
from tiphys.controllers.resourcequota import ResourceQuotaController
from tiphys.controllers.serviceaccount import RootCAPublisher, ServiceAccountController, TokenController
from tiphys.controllers.servicecidr import ServiceCIDRController
from tiphys.controllers.tainteviction import TaintEvictionController
from tiphys.controllers.ttl import TTLController
from tiphys.controllers.ttlafterfinished import TTLAfterFinishedController
from tiphys.controllers.volumeprotection import PVCProtectionController, PVProtectionController

CORE = "/api/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
GOING = {"deletionTimestamp": "2024-01-01T00:00:00Z"}

CERTIFICATE, KEY = authority()
TOKEN_KEY = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


@dataclass
class Scenario:
    """`objects`: path and object; `change` happens after `first` seconds, and `then` seconds are given to end it."""

    controllers: Sequence[Make]
    objects: Sequence[tuple[str, Json]]
    change: Callable[[World], None] = lambda _: None
    options: Options = field(default_factory=Options)
    first: float = 12
    then: float = 12
    kubelet: bool = False
    tick: Callable[[World], None] = lambda _: None  # every five seconds

    async def live(self, world: World, seconds: float) -> None:
        for _ in range(int(seconds / 5)):
            self.tick(world)
            await world.pass_time(5)
        await world.pass_time(seconds % 5)


def in_default(name: str, **more: Any) -> Json:
    return {"metadata": {"name": name, "namespace": "default", **more}}


def replication_controller() -> Json:
    spec = {"replicas": 4, "selector": {"app": "a"}, "template": template()}
    return {**in_default("r"), "spec": spec, "status": {}}


def namespace(name: str) -> Json:
    return {"metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}


def budget() -> Json:
    return {**in_default("b"), "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "a"}}}, "status": {}}


def ready(name: str) -> Json:
    return pod(name, conditions=[{"type": "Ready", "status": "True"}])


def finished_job() -> Json:
    conditions = [{"type": "Complete", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}]
    spec = {"ttlSecondsAfterFinished": 15, "template": template()}
    return {**in_default("j"), "spec": spec, "status": {"conditions": conditions}}


def token_secret(name: str, account: str) -> Json:
    notes = {"kubernetes.io/service-account.name": account}
    return {**in_default(name, annotations=notes), "type": "kubernetes.io/service-account-token"}


def tainted(name: str) -> Json:
    made = node(name)
    made["spec"]["taints"] = [{"key": "gone", "effect": "NoExecute"}]
    return made


def tolerant(name: str, seconds: int | None) -> Json:
    made = pod(name)
    made["spec"]["tolerations"] = [{"key": "gone", "operator": "Exists", "tolerationSeconds": seconds}]
    return made


def claimed_pod(name: str, **more: Any) -> Json:
    made = pod(name, **more)
    made["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]
    return made


def csi_volume() -> Json:
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"]}
    return {"metadata": {"name": "v"}, "spec": {**spec, "csi": {"driver": "d", "volumeHandle": "h"}}, "status": {}}


def two_kubelets_live(world: World) -> None:
    """Of three; were all silent, nobody would be evicted."""
    moment = world.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    for name in ("n2", "n3"):
        world.api.change(LEASES, "kube-node-lease", name, {"spec": {"renewTime": moment}})


ROLE_RULE = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}

SCENARIOS = {
    "replicationcontroller": Scenario(
        (lambda context: ReplicaSetController(context, REPLICATION_CONTROLLERS),),
        [(f"{CORE}/replicationcontrollers", replication_controller())],
        lambda world: void(
            world.api.change(f"{CORE}/replicationcontrollers", "default", "r", {"spec": {"replicas": 2}})
        ),
        kubelet=True,
        then=60,
    ),
    "mirroring": Scenario(
        (EndpointSliceMirroringController,),
        [
            (f"{CORE}/services", {**in_default("s"), "spec": {"ports": [{"port": 80}]}}),
            (
                f"{CORE}/endpoints",
                {**in_default("s"), "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]},
            ),
        ],
        lambda world: void(
            world.api.change(
                f"{CORE}/endpoints",
                "default",
                "s",
                {"subsets": [{"addresses": [{"ip": "192.0.2.2"}, {"ip": "2001:db8::1"}], "ports": [{"port": 81}]}]},
            )
        ),
    ),
    "service accounts": Scenario(
        (ServiceAccountController,),
        [(f"{CORE}/namespaces", namespace(name)) for name in ("a", "b", "c")],
        lambda world: world.api.remove(f"{CORE}/serviceaccounts", "a", "default"),
    ),
    "root CA": Scenario(
        (RootCAPublisher,),
        [(f"{CORE}/namespaces", namespace(name)) for name in ("a", "b", "c")],
        lambda world: void(
            world.api.change(f"{CORE}/configmaps", "a", "kube-root-ca.crt", {"data": {"ca.crt": "changed"}})
        ),
        Options(root_ca=b"CA"),
    ),
    "tokens": Scenario(
        (TokenController,),
        [
            (f"{CORE}/serviceaccounts", in_default("here")),
            (f"{CORE}/serviceaccounts", in_default("leaves")),
            (f"{CORE}/secrets", token_secret("one", "here")),
            (f"{CORE}/secrets", token_secret("two", "leaves")),
            (f"{CORE}/secrets", token_secret("three", "never-was")),
        ],
        lambda world: world.api.remove(f"{CORE}/serviceaccounts", "default", "leaves"),
        Options(root_ca=b"CA", service_account_key=TOKEN_KEY),
    ),
    "taint eviction": Scenario(
        (TaintEvictionController,),
        [
            (f"{CORE}/nodes", node("n1")),
            (f"{CORE}/pods", pod("plain")),
            (f"{CORE}/pods", tolerant("for-ever", None)),
            (f"{CORE}/pods", tolerant("for-a-while", 20)),
            (f"{CORE}/pods", pod("elsewhere", node="n2")),
        ],
        lambda world: void(world.api.change(f"{CORE}/nodes", "", "n1", {"spec": tainted("n1")["spec"]})),
        kubelet=True,
        then=60,
    ),
    "pod garbage": Scenario(
        (PodGCController,),
        [
            (f"{CORE}/nodes", node("n1")),
            *((f"{CORE}/pods", pod(f"p{i}", node="n1" if i % 2 else "gone")) for i in range(6)),
        ],
        first=60,
        then=120,
    ),
    "budgets": Scenario(
        (DisruptionController,),
        [("/apis/policy/v1/poddisruptionbudgets", budget()), *((f"{CORE}/pods", ready(f"p{i}")) for i in range(4))],
        lambda world: world.api.remove(f"{CORE}/pods", "default", "p0"),
    ),
    "quotas": Scenario(
        (ResourceQuotaController,),
        [
            (
                f"{CORE}/resourcequotas",
                {**in_default("q"), "spec": {"hard": {"pods": "9", "secrets": "9"}}, "status": {}},
            ),
            (f"{CORE}/secrets", in_default("s")),
            *((f"{CORE}/pods", pod(f"p{i}")) for i in range(4)),
        ],
        lambda world: world.api.remove(f"{CORE}/pods", "default", "p0"),
        first=20,
        then=400,
    ),
    "certificates": Scenario(
        (CSRSigningController, CSRCleanerController),
        [
            (
                "/apis/certificates.k8s.io/v1/certificatesigningrequests",
                request(name, "kubernetes.io/kube-apiserver-client", name, "people", ["client auth"]),
            )
            for name in ("a", "b", "c")
        ],
        options=Options(cluster_signing_cert=CERTIFICATE, cluster_signing_key=KEY),
    ),
    "bootstrap": Scenario(
        (BootstrapSignerController, TokenCleanerController),
        [
            (
                f"{CORE}/configmaps",
                {"metadata": {"name": "cluster-info", "namespace": "kube-public"}, "data": {"kubeconfig": "x"}},
            ),
            (f"{CORE}/secrets", token("golden")),
            (f"{CORE}/secrets", token("short1", "2024-01-01T00:00:20Z")),
        ],
        then=30,
    ),
    "aggregation": Scenario(
        (ClusterRoleAggregationController,),
        [
            (
                f"{RBAC}/clusterroles",
                {
                    "metadata": {"name": "all"},
                    "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]},
                },
            ),
            (f"{RBAC}/clusterroles", {"metadata": {"name": "a", "labels": {"to": "all"}}, "rules": [ROLE_RULE]}),
            (f"{RBAC}/clusterroles", {"metadata": {"name": "b", "labels": {"to": "all"}}, "rules": []}),
        ],
        lambda world: void(
            world.api.change(f"{RBAC}/clusterroles", "", "b", {"rules": [{**ROLE_RULE, "verbs": ["list"]}]})
        ),
    ),
    "protection": Scenario(
        (PVCProtectionController, PVProtectionController),
        [
            (
                f"{CORE}/persistentvolumeclaims",
                in_default("c", finalizers=["kubernetes.io/pvc-protection"], **GOING),
            ),
            (f"{CORE}/persistentvolumeclaims", in_default("new")),
            (f"{CORE}/persistentvolumes", {"metadata": {"name": "new"}, "status": {"phase": "Available"}}),
            (f"{CORE}/pods", claimed_pod("user")),
        ],
        lambda world: world.api.remove(f"{CORE}/pods", "default", "user"),
    ),
    "attributes classes": Scenario(
        (VACProtectionController,),
        [
            ("/apis/storage.k8s.io/v1/volumeattributesclasses", {"metadata": {"name": name, **more}, "driverName": "d"})
            for name, more in (("new", {}), ("going", {"finalizers": ["kubernetes.io/vac-protection"], **GOING}))
        ],
    ),
    "TTL after finished": Scenario(
        (TTLAfterFinishedController,), [("/apis/batch/v1/jobs", finished_job())], first=20, then=40
    ),
    "TTL": Scenario((TTLController,), [(f"{CORE}/nodes", node(f"n{i}")) for i in range(5)]),
    "addresses of nodes": Scenario(
        (NodeIpamController,),
        [(f"{CORE}/nodes", node(f"n{i}")) for i in range(1)],
        options=Options(cluster_cidrs=("10.244.0.0/16",)),
    ),
    "silent nodes": Scenario(
        (NodeLifecycleController,),
        [
            *((f"{CORE}/nodes", node(name)) for name in ("n1", "n2", "n3")),
            *((LEASES, lease(name)) for name in ("n1", "n2", "n3")),
            (f"{CORE}/pods", ready("p")),
        ],
        first=90,
        then=60,
        tick=two_kubelets_live,
    ),
    "service ranges": Scenario(
        (ServiceCIDRController,),
        [
            (
                "/apis/networking.k8s.io/v1/servicecidrs",
                {"metadata": {"name": name}, "spec": {"cidrs": [f"10.{i}.0.0/24"]}, "status": {}},
            )
            for i, name in enumerate(("stays", "goes"))
        ],
        lambda world: void(
            world.api.change(
                "/apis/networking.k8s.io/v1/servicecidrs",
                "",
                "goes",
                {"metadata": {"deletionTimestamp": "2024-01-01T00:00:12Z"}},
            )
        ),
        then=40,
    ),
    "ephemeral volumes": Scenario(
        (EphemeralVolumeController,),
        [(f"{CORE}/pods", with_ephemeral(f"p{i}")) for i in range(3)],
        lambda world: world.api.remove(f"{CORE}/persistentvolumeclaims", "default", "p0-scratch"),
    ),
    "resource claims": Scenario(
        (ResourceClaimController,),
        [
            ("/apis/resource.k8s.io/v1/resourceclaimtemplates", {**in_default("t"), "spec": {"spec": {}}}),
            ("/apis/resource.k8s.io/v1/resourceclaims", allocated("shared", in_default("gone", uid="u"))),
            *((f"{CORE}/pods", user(f"p{i}", resourceClaimTemplateName="t")) for i in range(3)),
        ],
        lambda world: void(world.api.change(f"{CORE}/pods", "default", "p0", {"status": {"phase": "Succeeded"}})),
    ),
    "attachments": Scenario(
        (AttachDetachController,),
        [
            *((f"{CORE}/nodes", node(name)) for name in ("n1", "n2")),
            (f"{CORE}/persistentvolumeclaims", claim(volumeName="v")),
            (f"{CORE}/persistentvolumes", csi_volume()),
            *((f"{CORE}/pods", claimed_pod(f"p{i}", node=f"n{i}")) for i in (1, 2)),
        ],
        lambda world: world.api.remove(f"{CORE}/pods", "default", "p1"),
        then=40,
    ),
}


def void(_: object) -> None:
    """A lambda's answer that nobody wants."""


_RANDOM = re.compile(r"(?<=-)0\d{4}$|\d{4}-\d\d-\d\dT[\d:.]+Z|[0-9a-f]{8}-[0-9a-f-]{27}")
_DROPPED = frozenset({"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "podIP", "podIPs"})
_SIGNED = frozenset({"certificate", "token"})


def scrub(value: Any, generated: frozenset[str]) -> Any:
    """What of an object does not depend on chance."""
    if isinstance(value, dict):
        return {
            key: ("signed" if key in _SIGNED and item else scrub(item, generated))
            for key, item in value.items()
            if key not in _DROPPED
        }
    if isinstance(value, list):
        # Of taints, conditions, finalizers and the like the order means nothing.
        return sorted((scrub(item, generated) for item in value), key=repr)
    if isinstance(value, str):
        return "generated" if value in generated else _RANDOM.sub("random", value)
    return value


def final(world: World) -> dict[str, list[str]]:
    stored = {path: [obj for _, obj in sorted(found.items())] for path, found in world.api.objects.items()}
    generated = frozenset(
        obj["metadata"]["name"] for found in stored.values() for obj in found if obj["metadata"].get("generateName")
    )
    return {
        path: sorted(repr(sorted(scrub(obj, generated).items())) for obj in found)
        for path, found in stored.items()
        if found and path != "/api/v1/events"
    }


async def play(scenario: Scenario, seed: int | None) -> dict[str, list[str]]:
    world = World(faults=seed, options=scenario.options)
    for path, obj in scenario.objects:
        world.api.put(path, obj)
    async with world.running(*scenario.controllers, kubelet=scenario.kubelet):
        await scenario.live(world, scenario.first)
        if seed is not None:
            # The change meets a state like the undisturbed one; what it brings about is disturbed again.
            world.faulty.heal()
            await scenario.live(world, 60 + scenario.first)
            world.faulty.rates = type(world.faulty.rates)()
        scenario.change(world)
        await world.pass_time(1)
    async with world.running(*scenario.controllers, kubelet=scenario.kubelet):
        await scenario.live(world, scenario.then)
        world.faulty.heal()
        await scenario.live(world, scenario.then + 60)
    return final(world)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", list(SCENARIOS))
async def test_it_ends_through_faults_and_a_restart_where_it_ends_without(name: str, seed: int) -> None:
    scenario = SCENARIOS[name]
    undisturbed = await play(scenario, None)
    assert undisturbed, "the scenario leaves something"
    assert await play(scenario, seed) == undisturbed
