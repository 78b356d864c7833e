"""/metrics/resource: cpu and memory of node, pods and containers (KEP-727), from a stats summary."""

from __future__ import annotations

from typing import Any

from tiphys.base.metrics import Registry
from tiphys.machinery.time import parse_rfc3339

Json = dict[str, Any]


def resource_metrics(document: Json) -> bytes:
    """The metrics of one moment in the Prometheus text format."""
    registry = Registry()
    of_container, of_pod = ("container", "namespace", "pod"), ("namespace", "pod")
    node_cpu = registry.counter(
        "node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds"
    )
    node_memory = registry.gauge("node_memory_working_set_bytes", "Current working set of the node in bytes")
    cpu = registry.counter(
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the container in core-seconds",
        of_container,
    )
    memory = registry.gauge(
        "container_memory_working_set_bytes", "Current working set of the container in bytes", of_container
    )
    started = registry.gauge(
        "container_start_time_seconds", "Start time of the container since unix epoch in seconds", of_container
    )
    pod_cpu = registry.counter(
        "pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", of_pod
    )
    pod_memory = registry.gauge("pod_memory_working_set_bytes", "Current working set of the pod in bytes", of_pod)
    node = document["node"]
    node_cpu.labels().inc(node["cpu"]["usageCoreNanoSeconds"] / 1e9)
    node_memory.labels().set(node["memory"]["workingSetBytes"])
    for pod in document["pods"]:
        where = (pod["podRef"]["namespace"], pod["podRef"]["name"])
        pod_cpu.labels(*where).inc(pod["cpu"]["usageCoreNanoSeconds"] / 1e9)
        pod_memory.labels(*where).set(pod["memory"]["workingSetBytes"])
        for container in pod["containers"]:
            cpu.labels(container["name"], *where).inc(container["cpu"]["usageCoreNanoSeconds"] / 1e9)
            memory.labels(container["name"], *where).set(container["memory"]["workingSetBytes"])
            began = parse_rfc3339(container["startTime"])
            started.labels(container["name"], *where).set(began.timestamp())
    registry.gauge(
        "resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise"
    ).labels().set(0)
    return registry.expose()
