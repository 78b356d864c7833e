"""What a server makes again when somebody deletes it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from tests.integration.apiserver.server import Api
from tiphys.apiserver.bootstrap.reconcile import KEEP_PERIOD, ClusterFacts, keep, reconcile
from tiphys.apiserver.bootstrap.writer import Writer
from tiphys.base.clock import FakeClock


async def test_the_kubernetes_service_comes_back(api: Api) -> None:
    server, clock = api.server, FakeClock(datetime(2024, 1, 1, tzinfo=UTC))
    facts = ClusterFacts(
        service_cidr="10.96.0.0/16", service_address="10.96.0.1", advertise_address="192.0.2.1", port=443
    )
    writer = Writer(server.resources, server.reader, server.clock.now)
    await reconcile(writer, facts, server.clock.now)
    keeping = asyncio.create_task(keep(writer, facts, clock))
    try:
        services = "/api/v1/namespaces/default/services"
        await api.delete(f"{services}/kubernetes")
        assert (await api.get(f"{services}/kubernetes"))["code"] == 404
        await clock.advance(KEEP_PERIOD)
        for _ in range(100):  # turns of the loop the writes need; no time passes
            found = await api.get(f"{services}/kubernetes")
            if found["kind"] == "Service":
                break
        assert found["spec"]["clusterIP"] == "10.96.0.1"
    finally:
        keeping.cancel()


async def test_the_default_range_is_ready_without_a_controller(api: Api) -> None:
    facts = ClusterFacts(
        service_cidr="10.96.0.0/16", service_address="10.96.0.1", advertise_address="192.0.2.1", port=443
    )
    writer = Writer(api.server.resources, api.server.reader, api.server.clock.now)
    for _ in range(2):  # a second start changes nothing
        await reconcile(writer, facts, api.server.clock.now)
        found = await api.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")
        (ready,) = found["status"]["conditions"]
        assert (ready["type"], ready["status"]) == ("Ready", "True")
        managers = [(each["manager"], each["operation"]) for each in found["metadata"]["managedFields"]]
        assert managers == [("kubernetes-service-cidr-controller", "Apply"), ("kube-apiserver", "Update")]
        version = found["metadata"]["resourceVersion"]
    assert (await api.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes"))["metadata"][
        "resourceVersion"
    ] == version
