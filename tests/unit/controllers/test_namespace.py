"""Namespaces: what a new one gets, and how one that is deleted is emptied, through faults."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.controllers.harness import PODS, World, names, pod
from tiphys.controllers.common.context import Options
from tiphys.controllers.namespace import NamespaceController
from tiphys.controllers.serviceaccount import RootCAPublisher, ServiceAccountController, TokenController

NAMESPACES = "/api/v1/namespaces"
MAPS = "/api/v1/configmaps"
ACCOUNTS = "/api/v1/serviceaccounts"
SECRETS = "/api/v1/secrets"


def namespace(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}


def delete(world: World, name: str) -> None:
    moment = world.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    world.api.change(
        NAMESPACES, "", name, {"metadata": {"deletionTimestamp": moment}, "status": {"phase": "Terminating"}}
    )


def conditions(world: World, name: str) -> dict[str, tuple[str, str, str]]:
    found = world.api.get(NAMESPACES, "", name)
    assert found is not None
    return {one["type"]: (one["status"], one["reason"], one["message"]) for one in found["status"]["conditions"]}


async def test_pods_go_before_everything_else_and_then_the_namespace() -> None:
    world = World()
    world.api.put(NAMESPACES, namespace("x"))
    for name in ("a", "b"):
        world.api.put(PODS, pod(name) | {"metadata": {"name": name, "namespace": "x"}})
    world.api.put(MAPS, {"metadata": {"name": "m", "namespace": "x"}})
    world.ready_after = 3.0
    async with world.running(NamespaceController):
        delete(world, "x")
        await world.clock.advance(1)
        assert names(world.api.list(MAPS)) == ["m"]
        message = "Some resources are remaining: pods. has 2 resource instances"
        assert conditions(world, "x")["NamespaceContentRemaining"] == ("True", "SomeResourcesRemain", message)
        assert conditions(world, "x")["NamespaceDeletionDiscoveryFailure"][0] == "False"
        await world.settle()
    assert world.api.list(MAPS) == []
    assert world.api.list(NAMESPACES) == []


async def test_a_finalizer_holds_the_namespace_and_is_named() -> None:
    world = World()
    world.api.put(NAMESPACES, namespace("x"))
    world.api.put(MAPS, {"metadata": {"name": "m", "namespace": "x", "finalizers": ["a.b/c"]}})
    async with world.running(NamespaceController):
        delete(world, "x")
        await world.pass_time(10)
        message = "Some content in the namespace has finalizers remaining: a.b/c in 1 resource instances"
        assert conditions(world, "x")["NamespaceFinalizersRemaining"] == ("True", "SomeFinalizersRemain", message)
        world.api.change(MAPS, "x", "m", {"metadata": {"finalizers": None}})
        await world.settle()
    assert world.api.list(NAMESPACES) == []


@pytest.mark.parametrize("seed", range(3))
async def test_deletion_ends_through_faults_and_touches_nothing_else(seed: int) -> None:
    world = World(faults=seed)
    for name in ("x", "y"):
        world.api.put(NAMESPACES, namespace(name))
        for i in range(5):
            world.api.put(MAPS, {"metadata": {"name": f"m{i}", "namespace": name}})
    async with world.running(NamespaceController):
        delete(world, "x")
        await world.pass_time(10)
        world.faulty.heal()
        await world.settle(seconds=60, step=1)
    assert names(world.api.list(NAMESPACES)) == ["y"]
    assert len(world.api.list(MAPS)) == 5


async def test_a_namespace_has_its_account_and_ca_and_gets_them_back() -> None:
    world = World(options=Options(root_ca=b"CA"))
    world.api.put(NAMESPACES, namespace("x"))
    async with world.running(ServiceAccountController, RootCAPublisher):
        await world.settle()
        assert names(world.api.list(ACCOUNTS)) == ["default"]
        published = world.api.get(MAPS, "x", "kube-root-ca.crt")
        assert published is not None
        assert published["data"] == {"ca.crt": "CA"}
        world.api.remove(ACCOUNTS, "x", "default")
        world.api.change(MAPS, "x", "kube-root-ca.crt", {"data": {"ca.crt": "forged"}})
        await world.settle()
    assert names(world.api.list(ACCOUNTS)) == ["default"]
    mended = world.api.get(MAPS, "x", "kube-root-ca.crt")
    assert mended is not None
    assert mended["data"] == {"ca.crt": "CA"}


async def test_token_secrets_are_filled_and_go_with_their_account() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    world = World(options=Options(root_ca=b"CA", service_account_key=key))
    account = world.api.put(ACCOUNTS, {"metadata": {"name": "robot", "namespace": "x"}})
    annotations = {"kubernetes.io/service-account.name": "robot"}
    world.api.put(
        SECRETS,
        {
            "metadata": {"name": "t", "namespace": "x", "annotations": annotations},
            "type": "kubernetes.io/service-account-token",
        },
    )
    async with world.running(TokenController):
        await world.settle()
        secret = world.api.get(SECRETS, "x", "t")
        assert secret is not None
        data = {name: base64.b64decode(value) for name, value in secret["data"].items()}
        assert (data["ca.crt"], data["namespace"]) == (b"CA", b"x")
        payload = data["token"].split(b".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
        assert claims["sub"] == "system:serviceaccount:x:robot"
        assert claims["kubernetes.io/serviceaccount/service-account.uid"] == account["metadata"]["uid"]
        world.api.remove(ACCOUNTS, "x", "robot")
        await world.settle()
    assert world.api.list(SECRETS) == []
