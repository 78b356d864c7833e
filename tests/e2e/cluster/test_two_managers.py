"""Two controller managers and two schedulers, killed at random while workloads roll: nothing is lost, nothing doubled.

Without nodes of its own: pods live and end on simulated ones. TIPHYS_TEST_ROLLING_SECONDS=600 makes it the long form.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster.harness import Cluster, tiphys, until
from tiphys.api.batch.v1 import Job
from tiphys.api.core.v1 import Pod
from tiphys.client import Client, Informers, RestConfig
from tiphys.cmd.cluster.layout import Layout

NAME = os.environ.get("TIPHYS_E2E_NAME", "e2e") + "-two"
PORT = str(int(os.environ.get("TIPHYS_E2E_PORT", "16600")) + 84)
SECONDS = float(os.environ.get("TIPHYS_TEST_ROLLING_SECONDS", "25"))
ELECTION = (
    "--leader-elect-lease-duration=3s",
    "--leader-elect-renew-deadline=2s",
    "--leader-elect-retry-period=500ms",
)
REPLICAS, COMPLETIONS = 6, 12

WORKLOADS = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {REPLICAS}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}, annotations: {{turn: "0"}}}}
    spec: {{containers: [{{name: main, image: x}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db
  replicas: 3
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}, annotations: {{turn: "0"}}}}
    spec: {{containers: [{{name: main, image: x}}]}}
"""


def job(number: int) -> str:
    """An indexed Job whose pods run half a second."""
    return json.dumps(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"job-{number}"},
            "spec": {
                "completions": COMPLETIONS,
                "parallelism": 4,
                "completionMode": "Indexed",
                "backoffLimit": 0,
                "template": {
                    "metadata": {"annotations": {"simulation.tiphys.dev/run-for": "500ms"}},
                    "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "x"}]},
                },
            },
        }
    )


class Processes:
    """Components run by this test; each is started again when it has died."""

    def __init__(self, commands: dict[str, list[str]], logs: Path) -> None:
        self.commands = commands
        self.logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ended: list[str] = []  # those that nobody killed

    def keep(self) -> None:
        """Start what does not run, as any supervisor does: whoever loses its lease ends."""
        for name, command in self.commands.items():
            process = self.running.get(name)
            if process is None or process.poll() is not None:
                if process is not None and process.returncode != -signal.SIGKILL:
                    self.ended.append(f"{name}: {process.returncode}")
                with (self.logs / f"{name}.log").open("ab") as log:
                    self.running[name] = subprocess.Popen(
                        [sys.executable, "-m", "tiphys.cmd.main", *command],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def tails(self) -> str:
        """The last lines each wrote."""
        logs = sorted(self.logs.glob("*.log"))
        return "\n".join(f"{log.name}: {line}" for log in logs for line in log.read_text().splitlines()[-15:])

    def end(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Cluster, Processes]]:
    cluster = Cluster(NAME)
    cluster.down("--purge")
    processes = Processes({}, tmp_path)
    try:
        tiphys("up", "--name", NAME, "--api-only", "--api-port", PORT)
        pki = Layout.of(NAME).pki
        reach = f"--kubeconfig={cluster.kubeconfig}"
        manager = [
            "controller-manager",
            reach,
            *ELECTION,
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--service-account-private-key-file={pki / 'sa.key'}",
        ]
        scheduler = ["scheduler", reach, *ELECTION]
        processes.commands = {
            "manager-1": manager,
            "manager-2": manager,
            "scheduler-1": scheduler,
            "scheduler-2": scheduler,
            "nodes": ["simulate", reach, "--nodes=10", "--tainted=false"],
        }
        processes.keep()
        yield cluster, processes
    finally:
        processes.end()
        cluster.down("--purge")


class Seen:
    """What a watch of pods and Jobs showed, whatever became of it since."""

    def __init__(self) -> None:
        self.succeeded: dict[str, set[str]] = {}  # job/index → uids of pods that ended well
        self.counts: dict[str, list[int]] = {}  # job → status.succeeded, as it went
        self.owners: Counter[str] = Counter()

    def pod(self, pod: Pod) -> None:
        index = pod.metadata.annotations.get("batch.kubernetes.io/job-completion-index")
        if index is not None and pod.status.phase == "Succeeded":
            key = f"{pod.metadata.owner_references[0].name}/{index}"
            self.succeeded.setdefault(key, set()).add(pod.metadata.uid)

    def job(self, found: Job) -> None:
        self.counts.setdefault(found.metadata.name, []).append(found.status.succeeded or 0)


@pytest.mark.slow
async def test_rolling_updates_and_jobs_while_everything_is_killed(site: tuple[Cluster, Processes]) -> None:
    cluster, processes = site
    chance = random.Random(11)
    seen = Seen()
    killed: Counter[str] = Counter()
    async with Client(RestConfig.from_kubeconfig(cluster.kubeconfig), "watcher") as client:
        informers = Informers(client)
        informers.of(Pod).add_handler(seen.pod, lambda _, new: seen.pod(new), seen.pod)
        informers.of(Job).add_handler(seen.job, lambda _, new: seen.job(new), None)
        watching = asyncio.create_task(informers.run())
        await asyncio.to_thread(cluster.apply, WORKLOADS)
        end = time.monotonic() + SECONDS
        turn = jobs = 0
        while time.monotonic() < end:
            await asyncio.sleep(chance.uniform(0.3, 1.5))
            victim = chance.choice([*processes.commands, "apiserver"])
            killed[victim] += 1
            if victim == "apiserver":
                pids = await asyncio.to_thread(cluster.pids)
                with suppress(ProcessLookupError, KeyError):
                    os.kill(pids["apiserver"], signal.SIGKILL)
            else:
                await asyncio.to_thread(processes.kill, victim)
            if chance.random() < 0.5:
                await asyncio.sleep(chance.uniform(0, 3))  # the other one takes over
            processes.keep()
            turn += 1
            patch = json.dumps({"spec": {"template": {"metadata": {"annotations": {"turn": str(turn)}}}}})
            for workload in ("deployment/web", "statefulset/db"):
                await asyncio.to_thread(cluster.run, "patch", workload, "--type=merge", "-p", patch)
            if turn % 3 == 0:
                done = await asyncio.to_thread(cluster.run, "apply", "-f", "-", stdin=job(jobs))
                jobs += not done.returncode
        await asyncio.to_thread(settled, cluster, processes, jobs, turn)
        await asyncio.sleep(1)
        watching.cancel()
    print(f"ended by themselves: {processes.ended}")
    print(f"killed {sum(killed.values())} processes ({dict(killed)}), {turn} turns, {jobs} jobs")
    assert jobs
    for number in range(jobs):
        counts = seen.counts[f"job-{number}"]
        assert counts == sorted(counts) and counts[-1] == COMPLETIONS
        for index in range(COMPLETIONS):
            assert len(seen.succeeded[f"job-{number}/{index}"]) == 1


def settled(cluster: Cluster, processes: Processes, jobs: int, turn: int) -> None:
    """Wait for the end of everything and check that it is exact."""

    def rolled() -> bool:
        processes.keep()
        done = cluster.run("get", "deployment,statefulset", "-o", "json")
        assert done.returncode == 0, done.stderr
        items = json.loads(done.stdout)["items"]
        return all(
            each["status"].get("observedGeneration") == each["metadata"]["generation"]
            and each["status"].get("updatedReplicas") == each["status"].get("readyReplicas") == each["spec"]["replicas"]
            and each["status"].get("replicas") == each["spec"]["replicas"]
            for each in items
        )

    try:
        until(rolled, "the last updates", 120)
    except AssertionError:
        print(f"ended by themselves: {processes.ended}\n{processes.tails()}")
        for what in ("deployment,statefulset,replicaset,pod", "lease,node"):
            print(cluster.run("get", what, "-A", "-o", "yaml").stdout)
        raise
    for number in range(jobs):
        until(lambda number=number: is_complete(cluster, number), f"job-{number}", 120)  # type: ignore[misc]
    pods = [pod for pod in cluster.get("pods")["items"] if "deletionTimestamp" not in pod["metadata"]]
    living = Counter(pod["metadata"]["labels"]["app"] for pod in pods if "app" in pod["metadata"]["labels"])
    assert living == {"web": REPLICAS, "db": 3}
    turns = {pod["metadata"]["annotations"].get("turn") for pod in pods if "app" in pod["metadata"]["labels"]}
    last: Any = cluster.get("deployment", "web")["spec"]["template"]["metadata"]["annotations"]["turn"]
    assert last in turns and len(turns) <= 2, (turns, turn)  # a patch of one of the two may have met a dead server
    assert [pod["metadata"]["name"] for pod in pods if pod["metadata"]["labels"].get("app") == "db"] == [
        "db-0",
        "db-1",
        "db-2",
    ]


def is_complete(cluster: Cluster, number: int) -> bool:
    status = cluster.get("job", f"job-{number}")["status"]
    conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
    return (
        conditions.get("Complete") == "True"
        and status.get("succeeded") == COMPLETIONS
        and status.get("completedIndexes") == f"0-{COMPLETIONS - 1}"
        and not status.get("failed")
        and not status.get("uncountedTerminatedPods")
    )
