"""The exact state after a phase. Each check gives what is wrong, in words; nothing when all is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from bench.simulation.pods import SlimPod, list_pods
from bench.simulation.rig import Rig, few
from bench.simulation.workloads import Set

MOST_ON_A_NODE = 110
INDEX = "batch.kubernetes.io/job-completion-index"
TRACKED = "batch.kubernetes.io/job-tracking"


async def ready_nodes(rig: Rig) -> int:
    """How many nodes are Ready now."""
    nodes = await rig.items("/api/v1/nodes", resourceVersion="0")
    return sum(
        any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"].get("conditions") or ())
        for node in nodes
    )


async def check_pods(rig: Rig, sets: Sequence[Set], versions: Mapping[str, str]) -> list[str]:
    """The pods are exactly those of the Deployments: none too many, none twice, none without its owner.

    `versions`: app → what its pods must be of. The watch must have shown the same as the list.
    """
    pods, _ = await list_pods(rig.client)
    owners = await _replica_sets(rig)
    problems = _wrong_counts(pods, sets) + _wrong_places(pods)
    for pod in pods:
        where = f"pod {pod.metadata.namespace}/{pod.metadata.name}"
        owner = next((each.uid for each in pod.metadata.owner_references if each.controller), "")
        if owner not in owners:
            problems.append(f"{where} is an orphan")
        if not pod.ready or pod.metadata.deletion_timestamp is not None:
            problems.append(f"{where} is not Ready, or going")
        if pod.metadata.labels.get("version") != versions.get(pod.app, pod.metadata.labels.get("version")):
            problems.append(f"{where} is of an old template")
    listed, watched = {pod.metadata.uid for pod in pods}, set(rig.pods.there)
    if listed != watched:
        problems.append(f"the watch lacks {len(listed - watched)} pods and has {len(watched - listed)} that are gone")
    return few(problems)


def _wrong_counts(pods: Sequence[SlimPod], sets: Sequence[Set]) -> list[str]:
    there = Counter(pod.app for pod in pods)
    wanted = {each.app: each.replicas for each in sets}
    return [
        f"{app}: {there[app]} pods, not {wanted.get(app, 0)}"
        for app in sorted({*there, *wanted})
        if there[app] != wanted.get(app, 0)
    ]


def _wrong_places(pods: Sequence[SlimPod]) -> list[str]:
    nodes = Counter(pod.spec.node_name for pod in pods)
    addresses = Counter(pod.status.pod_ip for pod in pods)
    problems = [f"{count} pods on {node or 'no node'}" for node, count in nodes.items() if count > MOST_ON_A_NODE]
    problems += [f"{count} pods have no node" for node, count in nodes.items() if not node]
    problems += [f"{count} pods have the address {ip or 'of none'}" for ip, count in addresses.items() if count > 1]
    return problems


async def _replica_sets(rig: Rig) -> set[str]:
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    found: set[str] = set()
    token = ""
    while True:
        query = {"limit": "500", "continue": token}
        page = await rig.client.request_json("GET", "/apis/apps/v1/replicasets", query=query, accept=accept)
        found |= {item["metadata"]["uid"] for item in page.get("items") or ()}
        token = page["metadata"].get("continue", "")
        if not token:
            return found


async def check_jobs(rig: Rig, namespace: str, number: int, completions: int) -> list[str]:
    """Every Job is complete, each of its indexes succeeded in exactly one pod, and nothing is left to count."""
    jobs = await rig.items(f"/apis/batch/v1/namespaces/{namespace}/jobs")
    pods, _ = await list_pods(rig.client, namespace)
    problems = [f"{len(jobs)} Jobs, not {number}"] if len(jobs) != number else []
    for job in jobs:
        status, name = job.get("status") or {}, job["metadata"]["name"]
        said = (status.get("succeeded", 0), status.get("failed", 0), status.get("active", 0))
        if said != (completions, 0, 0):
            problems.append(f"Job {name}: succeeded, failed, active are {said}")
        if any((status.get("uncountedTerminatedPods") or {}).values()):
            problems.append(f"Job {name} has pods it has not counted")
    ran = Counter((pod.app, pod.metadata.annotations.get(INDEX, "")) for pod in pods)
    problems += [f"{app} index {index}: {count} pods" for (app, index), count in ran.items() if count != 1]
    if len(ran) != number * completions:
        problems.append(f"{len(ran)} indexes ran, not {number * completions}")
    bad = sum(pod.status.phase != "Succeeded" for pod in pods)
    problems += [f"{bad} pods have not succeeded"] if bad else []
    held = sum(TRACKED in pod.metadata.finalizers for pod in pods)
    problems += [f"{held} pods still have the finalizer {TRACKED}"] if held else []
    return few(problems)
