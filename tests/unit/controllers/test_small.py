"""Controllers that fit on a page: TTL of nodes, service ranges, ephemeral volumes, legacy tokens, load balancers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from tests.unit.controllers.harness import Json, World, names, pod
from tests.unit.controllers.test_persistentvolumes import CLAIMS, PODS, VOLUMES, claim, volume
from tiphys.api.admissionregistration.v1 import ValidatingAdmissionPolicy
from tiphys.api.core.v1 import LoadBalancerIngress, LoadBalancerStatus, Node, Service
from tiphys.controllers.cloud.provider import CloudProvider, Route
from tiphys.controllers.cloud.routes import RouteController
from tiphys.controllers.cloud.services import ServiceLBController
from tiphys.controllers.common.context import Options
from tiphys.controllers.persistentvolume import (
    EphemeralVolumeController,
    PersistentVolumeExpander,
    VACProtectionController,
)
from tiphys.controllers.policystatus import PolicyStatusController
from tiphys.controllers.serviceaccount import LegacyTokenCleaner
from tiphys.controllers.servicecidr import ServiceCIDRController
from tiphys.controllers.ttl import TTLController, step_for

NODES = "/api/v1/nodes"
CIDRS = "/apis/networking.k8s.io/v1/servicecidrs"
ADDRESSES = "/apis/networking.k8s.io/v1/ipaddresses"
SECRETS = "/api/v1/secrets"
ACCOUNTS = "/api/v1/serviceaccounts"
MAPS = "/api/v1/configmaps"
SERVICES = "/api/v1/services"
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
ATTRIBUTES = "/apis/storage.k8s.io/v1/volumeattributesclasses"
GOING = {"deletionTimestamp": "2024-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("nodes", "before", "after"),
    [(1, 0, 0), (100, 0, 0), (101, 0, 1), (95, 1, 1), (89, 1, 0), (20000, 0, 5), (1, 5, 0)],
)
def test_the_time_to_keep_secrets_follows_the_number_of_nodes(nodes: int, before: int, after: int) -> None:
    assert step_for(nodes, before) == after


def times(world: World) -> set[str]:
    return {one["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] for one in world.api.list(NODES)}


async def test_every_node_is_told_again_when_there_are_more() -> None:
    world = World()
    for i in range(101):
        world.api.put(NODES, {"metadata": {"name": f"n{i}"}})
    async with world.running(TTLController, kubelet=False):
        await world.settle(seconds=5)
        assert {one["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] for one in world.api.list(NODES)} == {
            "15"
        }
        for i in range(20):
            world.api.remove(NODES, "", f"n{i}")
        await world.settle(seconds=5)
    assert times(world) == {"0"}


async def test_a_range_of_services_stays_while_an_address_needs_it() -> None:
    world = World()
    world.api.put(CIDRS, {"metadata": {"name": "r"}, "spec": {"cidrs": ["10.9.0.0/24"]}, "status": {}})
    world.api.put(ADDRESSES, {"metadata": {"name": "10.9.0.7"}, "spec": {}})
    async with world.running(ServiceCIDRController):
        await world.settle(seconds=5)
        (found,) = world.api.list(CIDRS)
        assert found["metadata"]["finalizers"] == ["networking.k8s.io/service-cidr-finalizer"]
        (condition,) = found["status"]["conditions"]
        assert (condition["status"], condition["message"]) == ("True", "Kubernetes Service CIDR is ready")
        world.api.change(CIDRS, "", "r", {"metadata": {"deletionTimestamp": "2024-01-01T00:00:05Z"}})
        await world.pass_time(30)
        (found,) = world.api.list(CIDRS)
        assert found["status"]["conditions"][0]["reason"] == "Terminating"
        world.api.remove(ADDRESSES, "", "10.9.0.7")
        await world.pass_time(30)
    assert world.api.list(CIDRS) == []


async def test_a_range_may_go_when_another_has_its_addresses() -> None:
    world = World()
    leaving = {"name": "r", "finalizers": ["networking.k8s.io/service-cidr-finalizer"], **GOING}
    world.api.put(CIDRS, {"metadata": leaving, "spec": {"cidrs": ["10.9.0.0/24"]}, "status": {}})
    world.api.put(CIDRS, {"metadata": {"name": "big"}, "spec": {"cidrs": ["10.9.0.0/16"]}, "status": {}})
    world.api.put(ADDRESSES, {"metadata": {"name": "10.9.0.7"}, "spec": {}})
    async with world.running(ServiceCIDRController):
        await world.pass_time(30)
    assert names(world.api.list(CIDRS)) == ["big"]


def with_ephemeral(name: str) -> Json:
    made = pod(name)
    template = {"metadata": {"labels": {"x": "y"}}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}
    made["spec"]["volumes"] = [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]
    return made


async def test_an_ephemeral_volume_gets_a_claim_of_its_pod_and_never_takes_one() -> None:
    world = World()
    mine = world.api.put(PODS, with_ephemeral("mine"))
    world.api.put(PODS, with_ephemeral("other"))
    world.api.put(CLAIMS, claim("other-scratch"))
    async with world.running(EphemeralVolumeController, kubelet=False):
        await world.pass_time(5)
    made = world.api.objects[CLAIMS]["default", "mine-scratch"]
    assert made["metadata"]["labels"] == {"x": "y"}
    assert made["metadata"]["ownerReferences"][0]["uid"] == mine["metadata"]["uid"]
    text = 'PVC "default/other-scratch" was not created for pod "default/other" (pod is not owner)'
    assert ("FailedBinding", f"ephemeral volume scratch: {text}") in world.events()


async def test_a_claim_that_grew_waits_for_a_driver_and_is_told_so() -> None:
    world = World()
    bound = claim(size="2Gi", volumeName="v") | {"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}
    world.api.put(CLAIMS, bound)
    world.api.put(VOLUMES, volume("v", claimRef={"namespace": "default", "name": "c", "uid": "uid-c"}))
    async with world.running(PersistentVolumeExpander):
        await world.pass_time(2)
    assert [reason for reason, _ in world.events()] == ["ExternalExpanding"]


async def test_an_attributes_class_goes_after_its_last_user() -> None:
    world = World()
    finalizers = ["kubernetes.io/vac-protection"]
    world.api.put(ATTRIBUTES, {"metadata": {"name": "gold", "finalizers": finalizers, **GOING}, "driverName": "d"})
    world.api.put(ATTRIBUTES, {"metadata": {"name": "new"}, "driverName": "d"})
    world.api.put(CLAIMS, claim(volumeAttributesClassName="gold"))
    async with world.running(VACProtectionController):
        await world.pass_time(3)
        assert names(world.api.list(ATTRIBUTES)) == ["gold", "new"]
        assert world.api.objects[ATTRIBUTES]["", "new"]["metadata"]["finalizers"] == finalizers
        world.api.remove(CLAIMS, "default", "c")
        await world.pass_time(3)
    assert names(world.api.list(ATTRIBUTES)) == ["new"]


async def test_tokens_nobody_used_for_long_are_marked_then_deleted() -> None:
    world = World(options=Options(legacy_service_account_token_clean_up_period=timedelta(days=10)))
    tracking = {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"}
    world.api.put(MAPS, {"metadata": tracking, "data": {"since": "2023-12-01"}})
    account = {"metadata": {"name": "a", "namespace": "default"}, "secrets": [{"name": n} for n in ("old", "used")]}
    uid = world.api.put(ACCOUNTS, account)["metadata"]["uid"]
    for name in ("old", "used", "by-hand"):
        notes = {"kubernetes.io/service-account.name": "a", "kubernetes.io/service-account.uid": uid}
        labels = {"kubernetes.io/legacy-token-last-used": "2024-01-12"} if name == "used" else {}
        metadata = {
            "name": name,
            "namespace": "default",
            "annotations": notes,
            "labels": labels,
            "creationTimestamp": "2023-11-01T00:00:00Z",
        }
        world.api.put(SECRETS, {"metadata": metadata, "type": "kubernetes.io/service-account-token"})

    async with world.running(LegacyTokenCleaner, kubelet=False):
        await world.pass_time(10)
        assert world.api.objects[SECRETS]["default", "old"]["metadata"]["labels"] == {
            "kubernetes.io/legacy-token-invalid-since": "2024-01-01"
        }
        await world.pass_time(12 * 86400, step=21600)
    assert names(world.api.list(SECRETS)) == ["by-hand", "used"]


@dataclass
class Machines:
    """A provider that remembers what it was asked for."""

    balancers: dict[str, list[str]] = field(default_factory=dict)
    routes: set[Route] = field(default_factory=set)
    refuses: bool = False

    async def ensure(self, service: Service, nodes: Sequence[Node]) -> LoadBalancerStatus:
        if self.refuses:
            raise RuntimeError("quota exceeded")
        await self.update_nodes(service, nodes)
        return LoadBalancerStatus(ingress=(LoadBalancerIngress(ip="192.0.2.1"),))

    async def update_nodes(self, service: Service, nodes: Sequence[Node]) -> None:
        self.balancers[service.metadata.name] = sorted(node.metadata.name for node in nodes)


class MachineBalancers(Machines):
    async def delete(self, service: Service) -> None:
        self.balancers.pop(service.metadata.name, None)


class MachineRoutes(Machines):
    async def list(self) -> Sequence[Route]:
        return sorted(self.routes, key=str)

    async def create(self, route: Route) -> None:
        if self.refuses:
            raise RuntimeError("table full")
        self.routes.add(route)

    async def delete(self, route: Route) -> None:
        self.routes.discard(route)


async def test_a_service_gets_a_load_balancer_and_gives_it_back() -> None:
    machines = MachineBalancers(refuses=True)
    world = World(options=Options(cloud_provider=CloudProvider(name="test", load_balancers=machines)))
    world.api.put(NODES, {"metadata": {"name": "n1"}})
    world.api.put(SERVICES, {"metadata": {"name": "s", "namespace": "default"}, "spec": {"type": "LoadBalancer"}})
    other = {"type": "LoadBalancer", "loadBalancerClass": "else.where/x"}
    world.api.put(SERVICES, {"metadata": {"name": "other", "namespace": "default"}, "spec": other})
    async with world.running(ServiceLBController):
        await world.pass_time(3)
        assert ("SyncLoadBalancerFailed", "Error syncing load balancer: quota exceeded") in world.events()
        machines.refuses = False
        await world.pass_time(30)
        found = world.api.objects[SERVICES]["default", "s"]
        assert found["status"]["loadBalancer"] == {"ingress": [{"ip": "192.0.2.1"}]}
        assert machines.balancers == {"s": ["n1"]}
        world.api.put(NODES, {"metadata": {"name": "n2"}})
        await world.pass_time(10)
        assert machines.balancers == {"s": ["n1", "n2"]}
        world.api.change(SERVICES, "default", "s", {"metadata": GOING})
        await world.pass_time(10)
    assert machines.balancers == {}
    assert names(world.api.list(SERVICES)) == ["other"]


async def test_every_node_has_its_routes_and_those_of_others_stay() -> None:
    machines = MachineRoutes(routes={Route("gone", "10.244.9.0/24"), Route("vpn", "10.1.0.0/24")})
    options = Options(cloud_provider=CloudProvider(name="test", routes=machines), cluster_cidrs=("10.244.0.0/16",))
    world = World(options=options)
    world.api.put(NODES, {"metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.244.1.0/24"]}, "status": {}})
    async with world.running(RouteController):
        await world.pass_time(5)
        assert machines.routes == {Route("n1", "10.244.1.0/24"), Route("vpn", "10.1.0.0/24")}
        (condition,) = world.api.list(NODES)[0]["status"]["conditions"]
        assert (condition["type"], condition["status"]) == ("NetworkUnavailable", "False")
        machines.refuses = True
        world.api.put(NODES, {"metadata": {"name": "n2"}, "spec": {"podCIDRs": ["10.244.2.0/24"]}, "status": {}})
        await world.pass_time(20)
    assert "FailedToCreateRoute" in [reason for reason, _ in world.events()]
    assert world.api.objects[NODES]["", "n2"]["status"]["conditions"][0]["status"] == "True"


class Strict:
    """Objects to everything."""

    def warnings(self, policy: ValidatingAdmissionPolicy) -> list[tuple[str, str]]:
        return [(f"spec.validations[{i}].expression", "no") for i, _ in enumerate(policy.spec.validations)]


async def test_a_policys_status_says_what_was_checked_once_a_generation() -> None:
    world = World(options=Options(policy_type_checker=Strict()))
    spec = {"validations": [{"expression": "x"}]}
    world.api.put(POLICIES, {"metadata": {"name": "p", "generation": 3}, "spec": spec, "status": {}})
    async with world.running(PolicyStatusController):
        await world.settle(seconds=5)
    warnings = [{"fieldRef": "spec.validations[0].expression", "warning": "no"}]
    (found,) = world.api.list(POLICIES)
    assert found["status"] == {"observedGeneration": 3, "typeChecking": {"expressionWarnings": warnings}}
    assert len(world.api.writes) == 1
