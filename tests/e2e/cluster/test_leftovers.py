"""`tiphys down --purge` leaves nothing of ours on the machine, whatever state the cluster was in."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

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


def test_rules_by_iptables_are_the_nodes_alone_and_go_with_them(mortal: Cluster) -> None:
    before = chains()
    mortal.up("--nodes", "1", "--api-port", "16601", "--proxy-mode", "iptables")
    (namespace,) = Path("/run/netns").glob(f"*{NAME}*")
    inside = ("nsenter", f"--net={namespace}")
    until(lambda: any(each.startswith(":KUBE-SVC-") for each in chains(*inside)), "the chains of Services")
    assert chains() == before
    number = namespace.stat().st_ino
    assert holders(number) != []
    mortal.down("--purge")
    assert chains() == before
    # The rules of a node end with its namespace, and that with the last who holds it.
    assert not namespace.exists() and holders(number) == []


def chains(*where: str) -> set[str]:
    """The chains that the machine's own iptables, or those of a node, have in either family."""
    found = [
        subprocess.run([*where, program], capture_output=True, text=True, check=True).stdout.splitlines()
        for program in ("iptables-save", "ip6tables-save")
    ]
    return {line.split()[0] for line in itertools.chain(*found) if line.startswith(":")}


def holders(number: int) -> list[str]:
    """Processes in a network namespace, and those that see it mounted."""
    name, found = f"net:[{number}]", []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if os.readlink(process / "ns/net") == name or name in (process / "mountinfo").read_text():
                found.append(process.name)
    return found


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
