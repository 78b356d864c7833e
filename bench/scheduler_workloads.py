"""What upstream's scheduler_perf puts before a scheduler, for `bench.scheduler_perf`.

Names, numbers of nodes and pods, shapes of pods and gates (pods/s) are those of its v1.36 performance workloads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

Object = dict[str, Any]
RESOURCE: Final = "/apis/resource.k8s.io/v1"
DRIVER: Final = "test-driver.cdi.k8s.io"
ZONE: Final = "topology.kubernetes.io/zone"
HOSTNAME: Final = "kubernetes.io/hostname"
PODS: Final = "/api/v1/pods"
TAINT: Final = {"key": "foo", "value": "bar", "effect": "NoSchedule"}
TEAM: Final = {"matchLabels": {"team": "devops"}}


def pod(name: str, namespace: str, spec: Object | None = None, labels: dict[str, str] | None = None) -> Object:
    """A pod of one container that asks for a tenth of a core and 500 MiB."""
    amounts = {"cpu": "100m", "memory": "500Mi"}
    container = {
        "name": "pause",
        "image": "registry.k8s.io/pause:3.10",
        "ports": [{"containerPort": 80}],
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
    }
    metadata: Object = {"name": name, "namespace": namespace, "labels": labels or {}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], **(spec or {})},
    }


def node(number: int) -> Object:
    """Four cores, 32 GiB, 110 pods; three zones."""
    name = f"node-{number:05d}"
    amounts = {"cpu": "4", "memory": "32Gi", "pods": "110"}
    labels = {HOSTNAME: name, ZONE: f"zone{number % 3 + 1}"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "simulated"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]},
    }


@dataclass(frozen=True)
class Part:
    """`count` pods of one shape in one or more namespaces."""

    count: int
    spec: Object | None = None
    labels: dict[str, str] | None = None
    namespace: str = "sched-0"
    namespaces: int = 1
    requests: dict[str, str] | None = None
    prefix: str = "before"

    def pods(self) -> Iterator[Object]:
        """All of them."""
        for number in range(self.count):
            place = f"{self.namespace}-{number % self.namespaces}" if self.namespaces > 1 else self.namespace
            made = pod(f"{self.prefix}-{number}", place, self.spec, self.labels)
            if self.requests is not None:
                made["spec"]["containers"][0]["resources"] = {"requests": dict(self.requests)}
            yield made


Churn = Callable[[int], list[tuple[str, Object]]]
Objects = list[tuple[str, list[Object]]]


@dataclass(frozen=True)
class Workload:
    """Nodes, pods that are there before, pods that are measured. `waits`: those before never get a node."""

    name: str
    gate: str
    after: Part
    first: tuple[Part, ...] = ()
    nodes: int = 5000
    node: Callable[[int], Object] = node
    waits: bool = False
    churn: Churn = lambda _: []
    churn_interval: float = 0.0
    extra: Callable[[Part], Objects] | None = None
    volume: Callable[[int], Object] | None = None
    devices: int = 0  # of each node
    controllers: str = ""  # of the controller manager, beside the scheduler
    fixed: bool = False  # as many pods as fill the nodes: fewer pods mean fewer nodes

    def before(self, nodes: int) -> Objects:
        """Collections and what is made in them before the measurement: namespaces, pods, what the pods need."""
        names = {item["metadata"]["namespace"]: None for part in (*self.first, self.after) for item in part.pods()}
        names["sched-1"] = None
        found: Objects = [("/api/v1/namespaces", [_namespace(name) for name in names])]
        accounts = [{"metadata": {"name": "default", "namespace": one["metadata"]["name"]}} for one in found[0][1]]
        found.append(("/api/v1/serviceaccounts", accounts))
        if self.extra is not None:
            found += self.extra(self.after)
        if self.devices:
            found.append((f"{RESOURCE}/resourceslices", [_slice(number, self.devices) for number in range(nodes)]))
        for number, part in enumerate(self.first):
            found.append((PODS, list(replace(part, prefix=f"before-{number}").pods())))
        return found

    def measured(self) -> Iterator[Object]:
        """The pods that are measured."""
        for number, made in enumerate(replace(self.after, prefix="measured").pods()):
            if self.volume is not None:
                made["spec"]["volumes"] = [{"name": "volume", **self.volume(number)}]
            yield made


def scaled(workload: Workload, share: float) -> Workload:
    """The same with fewer pods."""

    def part(one: Part) -> Part:
        return replace(one, count=max(1, round(one.count * share)))

    nodes = max(1, round(workload.nodes * share)) if workload.fixed else workload.nodes
    return replace(workload, after=part(workload.after), first=tuple(map(part, workload.first)), nodes=nodes)


def _namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": "devops"}}}


def term(color: str, key: str, **more: Any) -> Object:
    """A pod affinity term."""
    return {"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key, **more}


def required(kind: str, found: Object) -> Object:
    """A spec with a hard rule about other pods."""
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [found]}}}


def preferred(kind: str, found: Object) -> Object:
    """A spec with a wish about other pods."""
    wish = {"weight": 1, "podAffinityTerm": found}
    return {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}}


def spread(action: str, color: str = "blue", **more: Any) -> Object:
    """A spec that spreads over zones."""
    selector = {"matchLabels": {"color": color}}
    rule = {"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": action, "labelSelector": selector, **more}
    return {"topologySpreadConstraints": [rule]}


BOTH: Final = {"namespaces": ["sched-1", "sched-0"]}
SELECTED: Final = {"namespaceSelector": TEAM}
AFFINITY: Final = required("podAffinity", term("blue", ZONE, **BOTH))
ANTI: Final = required("podAntiAffinity", term("green", HOSTNAME, **BOTH))
LIKES: Final = preferred("podAffinity", term("red", HOSTNAME, **BOTH))
DISLIKES: Final = preferred("podAntiAffinity", term("yellow", HOSTNAME, **BOTH))
IN_ZONES: Final = {"key": ZONE, "operator": "In", "values": ["zone1", "zone2"]}
NODE_AFFINITY: Final = {
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [IN_ZONES]}]}
        }
    }
}
ONE_NODE: Final = {"key": "metadata.name", "operator": "In", "values": ["node-00000"]}
DAEMON: Final = {
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [ONE_NODE]}]}
        }
    }
}


def large(first: int) -> Callable[[int], Object]:
    """Nodes of which the first few are without bounds."""

    def made(number: int) -> Object:
        found = node(number)
        if number < first:
            amounts = {"cpu": "9000", "memory": "90000Gi", "pods": "90000"}
            found["status"].update(capacity=amounts, allocatable=amounts)
        return found

    return made


def with_taints(number: int) -> Object:
    """Every fifth node has a taint that the pods do not tolerate."""
    found = node(number)
    if number % 5 == 4:
        found["spec"] = {"taints": [TAINT]}
    return found


def mixed(number: int) -> list[tuple[str, Object]]:
    """Upstream's churn: a node, a pod that fits nowhere, a service."""
    other = node(90000 + number)
    other["metadata"]["name"] = f"churn-{number}"
    service = {
        "metadata": {"name": f"churn-{number}", "namespace": "sched-1"},
        "spec": {"selector": {"app": "foo"}, "ports": [{"port": 8080}]},
    }
    return [
        ("/api/v1/nodes", other),
        ("/api/v1/namespaces/sched-1/pods", huge(number)),
        ("/api/v1/namespaces/sched-1/services", service),
    ]


def huge(number: int) -> Object:
    """A pod that fits nowhere."""
    return next(Part(1, namespace="sched-1", requests={"cpu": "9", "memory": "500Mi"}, prefix=f"churn-{number}").pods())


def unschedulable(number: int) -> list[tuple[str, Object]]:
    """One pod more that fits nowhere."""
    return [("/api/v1/namespaces/sched-1/pods", huge(number))]


def secrets(part: Part) -> Objects:
    """The secret every pod mounts."""
    return [("/api/v1/secrets", [{"metadata": {"name": "secret", "namespace": part.namespace}}])]


def priorities(_: Part) -> Objects:
    """The class of pods that others give way to."""
    return [("/apis/scheduling.k8s.io/v1/priorityclasses", [{"metadata": {"name": "high"}, "value": 10}])]


def volumes(source: Callable[[str], Object]) -> Callable[[Part], Objects]:
    """A bound volume and claim for each pod."""

    def made(part: Part) -> Objects:
        claims, found = [], []
        for number in range(part.count):
            name = f"volume-{number}"
            shared = {"accessModes": ["ReadWriteOnce"]}
            bound = {"annotations": {"pv.kubernetes.io/bind-completed": "true"}}
            claim = {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": part.namespace, "name": name}
            spec = {**shared, "capacity": {"storage": "1Gi"}, "claimRef": claim, **source(name)}
            found.append({"metadata": {"name": name}, "spec": spec})
            wanted = {
                **shared,
                "resources": {"requests": {"storage": "1Gi"}},
                "volumeName": name,
                "storageClassName": "",
            }
            claims.append({"metadata": {"name": name, "namespace": part.namespace, **bound}, "spec": wanted})
        return [("/api/v1/persistentvolumes", found), ("/api/v1/persistentvolumeclaims", claims)]

    return made


def claim_templates(part: Part) -> Objects:
    """The class of the devices, and what every pod's claim is made from."""
    selector = {"cel": {"expression": f'device.driver == "{DRIVER}"'}}
    device_class = {"metadata": {"name": "test-class"}, "spec": {"selectors": [selector]}}
    request = {"name": "req-0", "exactly": {"deviceClassName": "test-class"}}
    template = {
        "metadata": {"name": "test-claim-template", "namespace": part.namespace},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }
    classes, templates = [device_class], [template]
    return [(f"{RESOURCE}/deviceclasses", classes), (f"{RESOURCE}/resourceclaimtemplates", templates)]


def _slice(number: int, count: int) -> Object:
    """The devices of one node."""
    name = f"node-{number:05d}"
    pool = {"name": name, "generation": 1, "resourceSliceCount": 1}
    devices = [{"name": f"device-{index}"} for index in range(count)]
    spec = {"driver": DRIVER, "nodeName": name, "pool": pool, "devices": devices}
    return {"metadata": {"name": f"{name}-slice"}, "spec": spec}


def claimed(number: int) -> Object:
    """The claim of the pod of this number."""
    return {"persistentVolumeClaim": {"claimName": f"volume-{number}"}}


def _secret(number: int) -> Object:
    return {"secret": {"secretName": "secret"}}


BLUE, GREEN, RED, YELLOW = ({"color": color} for color in ("blue", "green", "red", "yellow"))
GATES: Final = {"schedulingGates": [{"name": "test.k8s.io/hold"}]}
LOW, HIGH = {"cpu": "900m", "memory": "500Mi"}, {"cpu": "3000m", "memory": "500Mi"}
FROM_TEMPLATE: Final = {"resourceClaims": [{"name": "resource", "resourceClaimTemplateName": "test-claim-template"}]}
CSI: Final = volumes(lambda name: {"csi": {"driver": "csi.example.com", "volumeHandle": name}})
DISK: Final = volumes(lambda name: {"awsElasticBlockStore": {"volumeID": name, "fsType": "ext4"}})
ANTI_NS: Final = required("podAntiAffinity", term("green", HOSTNAME, **SELECTED))
AFFINITY_NS: Final = required("podAffinity", term("blue", ZONE, **SELECTED))
DISLIKES_NS: Final = preferred("podAntiAffinity", term("yellow", HOSTNAME, **SELECTED))
LIKES_NS: Final = preferred("podAffinity", term("red", HOSTNAME, **SELECTED))
TAINTS_COUNT: Final = spread("DoNotSchedule", nodeTaintsPolicy="Honor")


def many(spec: Object, labels: dict[str, str], each: int = 4000) -> Part:
    """Pods spread over a hundred namespaces."""
    return Part(each, spec, labels, namespace="many", namespaces=100)


WORKLOADS: Final = (
    Workload("SchedulingBasic", "270", Part(10000), (Part(1000),)),
    Workload("SchedulingDaemonset", "390", Part(30000, DAEMON), nodes=15000, node=large(1)),
    Workload("SchedulingWithMixedChurn", "265", Part(10000), churn=mixed, churn_interval=1.0),
    Workload("Unschedulable", "140", Part(10000), (), churn=unschedulable, churn_interval=0.2),
    Workload(
        "PreemptionAsync",
        "160",
        Part(5000, {"priorityClassName": "high"}, requests=HIGH),
        (Part(20000, {"terminationGracePeriodSeconds": 0}, requests=LOW),),
        extra=priorities,
        fixed=True,
    ),
    Workload("SchedulingWhileGated", "130", Part(10000), (Part(10000, GATES),), nodes=1, node=large(1), waits=True),
    Workload("TopologySpreading", "85", Part(5000, spread("DoNotSchedule"), BLUE), (Part(5000),)),
    Workload("PreferredTopologySpreading", "125", Part(5000, spread("ScheduleAnyway"), BLUE), (Part(5000),)),
    Workload("SchedulingWithNodeInclusionPolicy", "68", Part(5000, TAINTS_COUNT, BLUE), node=with_taints),
    Workload("SchedulingNodeAffinity", "220", Part(10000, NODE_AFFINITY), (Part(5000),)),
    Workload("SchedulingPodAntiAffinity", "60", Part(2000, ANTI, GREEN), (Part(1000, ANTI, GREEN, "sched-1"),)),
    Workload("SchedulingPodMatchingAntiAffinity", "600", Part(5000, None, GREEN), (Part(1, ANTI, {"color": "x"}),)),
    Workload("SchedulingPodAffinity", "35", Part(5000, AFFINITY, BLUE), (Part(5000, AFFINITY, BLUE, "sched-1"),)),
    Workload("SchedulingPreferredPodAffinity", "90", Part(5000, LIKES, RED), (Part(5000, LIKES, RED, "sched-1"),)),
    Workload(
        "SchedulingPreferredPodAntiAffinity", "90", Part(5000, DISLIKES, YELLOW), (Part(5000, None, YELLOW, "sched-1"),)
    ),
    Workload(
        "SchedulingRequiredPodAntiAffinityWithNSSelector",
        "24",
        Part(2000, ANTI_NS, GREEN),
        (many(ANTI_NS, GREEN, 1000),),
    ),
    Workload(
        "SchedulingRequiredPodAffinityWithNSSelector", "35", Part(2000, AFFINITY_NS, BLUE), (many(AFFINITY_NS, BLUE),)
    ),
    Workload(
        "SchedulingPreferredAntiAffinityWithNSSelector",
        "55",
        Part(2000, DISLIKES_NS, YELLOW),
        (many(DISLIKES_NS, YELLOW),),
    ),
    Workload("SchedulingPreferredAffinityWithNSSelector", "90", Part(5000, LIKES_NS, RED), (many(LIKES_NS, RED),)),
    Workload(
        "MixedSchedulingBasePod",
        "140",
        Part(5000),
        (
            Part(2000),
            Part(2000, AFFINITY, BLUE),
            Part(2000, ANTI, GREEN),
            Part(2000, LIKES, RED),
            Part(2000, DISLIKES, YELLOW),
        ),
    ),
    Workload(
        "GatedPodsWithPodAffinity",
        "110",
        Part(10000, None, BLUE),
        (Part(10000, {**GATES, **AFFINITY}, RED),),
        nodes=1,
        node=large(1),
        waits=True,
    ),
    Workload("SchedulingSecrets", "260", Part(10000), extra=secrets, volume=_secret),
    Workload("SchedulingInTreePVs", "90", Part(2000), extra=DISK, volume=claimed),
    Workload("SchedulingCSIPVs", "48", Part(5000), extra=CSI, volume=claimed),
    Workload(
        "SchedulingWithResourceClaimTemplate",
        "40",
        Part(2500, FROM_TEMPLATE),
        (Part(2500, FROM_TEMPLATE),),
        nodes=500,
        extra=claim_templates,
        devices=10,
        controllers="resourceclaim-controller",
        fixed=True,
    ),
)
