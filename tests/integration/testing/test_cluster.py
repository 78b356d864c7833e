"""`tiphys.testing` as its users have it: fixtures, several clusters, reset, an end that leaves nothing."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from tiphys import testing
from tiphys.api.apps.v1 import Deployment
from tiphys.api.core.v1 import ConfigMap, Namespace, Pod
from tiphys.client import Client, RestConfig
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName
from tiphys.testing import build
from tiphys.testing.launcher import Launcher


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1000):
        if await check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("did not happen within twenty seconds")


async def names(client: Client, kind: type) -> set[str]:
    return {item.metadata.name for item in (await client.list(kind)).items}


async def test_pods_can_be_made_at_once(tiphys_cluster: testing.Cluster) -> None:
    async with Client(tiphys_cluster.client_config.rest_config()) as client:
        for namespace in ("default", tiphys_cluster.namespace()):
            made = await client.create(msgspec.convert(build.pod(namespace=namespace), Pod))
            assert made.spec.service_account_name == "default"


async def test_the_kubeconfig_leads_to_the_administrator(tiphys_cluster: testing.Cluster) -> None:
    async with Client(RestConfig.from_kubeconfig(tiphys_cluster.kubeconfig)) as client:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        found = await client.request_json("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
    assert found["status"]["userInfo"]["username"] == "kubernetes-admin"


async def test_controllers_work(tiphys_cluster: testing.Cluster, tiphys_namespace: str) -> None:
    async with Client(tiphys_cluster.client_config.rest_config()) as client:
        await client.create(msgspec.convert(build.deployment(namespace=tiphys_namespace, replicas=3), Deployment))

        async def three() -> bool:
            return len((await client.list(Pod, namespace=tiphys_namespace)).items) == 3

        await eventually(three)


async def test_reset_leaves_what_a_new_cluster_has(tiphys_empty_cluster: testing.Cluster) -> None:
    cluster = tiphys_empty_cluster
    async with Client(cluster.client_config.rest_config()) as client:
        before = [await names(client, kind) for kind in (Namespace, ConfigMap, Pod)]
        namespace = cluster.namespace("own")
        await client.create(msgspec.convert(build.deployment(namespace="default", replicas=20), Deployment))
        held = build.config_map(namespace=namespace, key="value")
        held["metadata"]["finalizers"] = ["example.com/never"]
        await client.create(msgspec.convert(held, ConfigMap))
        await client.delete(ConfigMap, ObjectName("kube-system", "kube-root-ca.crt"))

        async def busy() -> bool:
            return len((await client.list(Pod, namespace="default")).items) > 5

        await eventually(busy)  # in the middle of the controller's work
        cluster.reset()
        assert [await names(client, kind) for kind in (Namespace, ConfigMap, Pod)] == before
        with pytest.raises(NotFoundError):
            await client.get(ConfigMap, ObjectName(namespace, "config"))
        # It goes on working.
        await client.create(msgspec.convert(build.deployment(namespace="default"), Deployment))

        async def one() -> bool:
            return len((await client.list(Pod, namespace="default")).items) == 1

        await eventually(one)


async def test_two_clusters_know_nothing_of_each_other(tiphys_cluster: testing.Cluster) -> None:
    with testing.cluster(controllers=False) as other:
        assert other.server != tiphys_cluster.server
        name = other.namespace("only-there")
        async with Client(tiphys_cluster.client_config.rest_config()) as client:
            assert name not in await names(client, Namespace)


async def test_state_in_a_directory_outlives_the_cluster(tmp_path: Path) -> None:
    with testing.cluster(controllers=False, datastore=tmp_path) as first:
        name = first.namespace("kept")
    with testing.cluster(controllers=False, datastore=tmp_path) as second:
        async with Client(second.client_config.rest_config()) as client:
            assert name in await names(client, Namespace)


def test_what_cannot_be_started_says_why() -> None:
    with (
        pytest.raises(testing.ClusterError, match="flying-controller"),
        testing.cluster(controllers=["flying-controller"]),
    ):
        pass


def test_a_stopped_cluster_says_so() -> None:
    with testing.cluster(controllers=False) as cluster:
        pass
    with pytest.raises(testing.ClusterError, match="has ended"):
        cluster.reset()


def test_nothing_is_left_of_a_test_run_that_is_killed() -> None:
    script = (
        "from tiphys import testing; from tiphys.testing.launcher import launcher; import signal\n"
        "with testing.cluster(controllers=False):\n"
        "    print(launcher().pid, launcher().directory, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid, directory = run.stdout.readline().split()
        descriptor = os.pidfd_open(int(pid))
        run.send_signal(signal.SIGKILL)
    try:
        assert _ended_within(descriptor, 10)
    finally:
        os.close(descriptor)
    assert not Path(directory).exists()


def _ended_within(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def test_a_launcher_ends_its_clusters() -> None:
    own = Launcher()
    cluster = testing.clusters.start(controllers=False, using=own)
    own.close()
    with pytest.raises(testing.ClusterError):
        cluster.reset()
    cluster.stop()
    assert not own.directory.exists()


def test_a_command_is_run_with_a_cluster() -> None:
    command = [sys.executable, "-m", "tiphys.testing", "--", sys.executable, "-c"]
    script = "import os; print(open(os.environ['KUBECONFIG']).read())"
    done = subprocess.run([*command, script], capture_output=True, text=True, check=True)
    assert "https://127.0.0.1:" in done.stdout
    assert subprocess.run([*command[:4], "no-such-command"], capture_output=True, check=False).returncode == 127
