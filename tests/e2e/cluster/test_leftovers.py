"""`tiphys down --purge` leaves nothing of ours on the machine, whatever state the cluster was in."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import machine
from tests.e2e.cluster.harness import Cluster, until

NAME = "tracelessly"
# Everything of the cluster carries its name: paths of conmon, sockets, links are made of it.
MARKS = (NAME,)


@pytest.fixture
def mortal() -> Iterator[Cluster]:
    cluster = Cluster(NAME)
    cluster.down("--purge")
    yield cluster
    cluster.down("--purge")


def start_with_work(cluster: Cluster) -> None:
    cluster.up("--nodes", "2", "--api-port", "16601")
    cluster.kubectl("create", "deployment", "web", "--image=busybox:1.37", "--replicas=3", "--", "sleep", "600")
    cluster.kubectl("expose", "deployment", "web", "--port=80", "--type=NodePort")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")


def test_a_working_cluster_goes_without_a_trace(mortal: Cluster) -> None:
    before = machine.take(*MARKS)
    start_with_work(mortal)
    during = before.added(machine.take(*MARKS))
    assert {"processes", "namespaces", "links", "mounts", "cgroups", "tables", "files"} <= set(during)
    mortal.down("--purge")
    assert before.added(machine.take(*MARKS)) == {}


def test_so_does_one_whose_supervisors_were_killed(mortal: Cluster) -> None:
    before = machine.take(*MARKS)
    start_with_work(mortal)
    for line in machine.take(*MARKS).processes - before.processes:
        pid, _, command = line.partition(" ")
        if "supervisor" in command or "guard" in command:
            os.kill(int(pid), signal.SIGKILL)
    mortal.down("--purge")
    assert before.added(machine.take(*MARKS)) == {}


def test_state_survives_down_and_the_workload_comes_back(mortal: Cluster) -> None:
    start_with_work(mortal)
    uid = mortal.kubectl("get", "deployment", "web", "-o", "jsonpath={.metadata.uid}")
    mortal.down()
    assert mortal.status()["state"] == "stopped"
    mortal.up()
    assert mortal.kubectl("get", "deployment", "web", "-o", "jsonpath={.metadata.uid}") == uid
    until(
        lambda: mortal.get("deployment", "web")["status"].get("availableReplicas") == 3,
        "the deployment to be available again",
    )
