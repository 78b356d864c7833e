"""Defaults of a PodSpec, inside a Pod or any template.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#PodSpec
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tiphys.apiserver.registry.defaults.image import pull_policy_for
from tiphys.apiserver.registry.defaults.volume import default_volume
from tiphys.machinery.quantity import Quantity

Json = dict[str, Any]

CONTAINER_LISTS: Final = ("initContainers", "containers", "ephemeralContainers")
# Quantities finer than milli are rounded up; only these spellings can be finer.
_finer_than_milli = re.compile(r"[nu]$|\.\d{4,}|[eE]-|\.\d+[KMGTPEi]")


def all_containers(spec: Json) -> Iterator[Json]:
    """Every container of a pod spec, init containers first."""
    for name in CONTAINER_LISTS:
        yield from spec.get(name) or ()


def default_pod_template(template: Json | None) -> None:
    """Defaults of a PodTemplateSpec; None and a template without spec are left alone."""
    if template and isinstance(template.get("spec"), dict):
        default_pod_spec(template["spec"])


def default_pod_spec(spec: Json) -> None:
    """Defaults that hold in pods and templates alike."""
    if not spec.get("restartPolicy"):
        spec["restartPolicy"] = "Always"
    if not spec.get("dnsPolicy"):
        spec["dnsPolicy"] = "ClusterFirst"
    if not spec.get("schedulerName"):
        spec["schedulerName"] = "default-scheduler"
    if spec.get("terminationGracePeriodSeconds") is None:
        spec["terminationGracePeriodSeconds"] = 30
    if spec.get("securityContext") is None:
        spec["securityContext"] = {}
    mirror_service_account(spec)
    for container in all_containers(spec):
        default_container(container)
    for volume in spec.get("volumes") or ():
        default_volume(volume)
    round_resource_list(spec.get("overhead"))
    if resources := spec.get("resources"):
        default_resources(resources)


def mirror_service_account(spec: Json) -> None:
    """`serviceAccount` is the old name of `serviceAccountName`; both always say the same, the new one wins."""
    name = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if name:
        spec["serviceAccountName"] = name
        spec["serviceAccount"] = name


def default_container(container: Json) -> None:
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = pull_policy_for(container.get("image") or "")
    if not container.get("terminationMessagePath"):
        container["terminationMessagePath"] = "/dev/termination-log"
    if not container.get("terminationMessagePolicy"):
        container["terminationMessagePolicy"] = "File"
    for port in container.get("ports") or ():
        if not port.get("protocol"):
            port["protocol"] = "TCP"
    for variable in container.get("env") or ():
        _default_env_source(variable.get("valueFrom"))
    if resources := container.get("resources"):
        default_resources(resources)
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if probe is not None:
            default_probe(probe)
    if lifecycle := container.get("lifecycle"):
        for name in ("postStart", "preStop"):
            _default_http_get((lifecycle.get(name) or {}).get("httpGet"))


def _default_env_source(source: Json | None) -> None:
    if not source:
        return
    reference = source.get("fieldRef")
    if reference is not None and not reference.get("apiVersion"):
        reference["apiVersion"] = "v1"
    file_key = source.get("fileKeyRef")
    if file_key is not None and file_key.get("optional") is None:
        file_key["optional"] = False


def default_probe(probe: Json) -> None:
    for name, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        if not probe.get(name):
            probe[name] = value
    _default_http_get(probe.get("httpGet"))
    grpc = probe.get("grpc")
    if grpc is not None and grpc.get("service") is None:
        grpc["service"] = ""


def _default_http_get(action: Json | None) -> None:
    if action is None:
        return
    if not action.get("path"):
        action["path"] = "/"
    if not action.get("scheme"):
        action["scheme"] = "HTTP"


def default_resources(resources: Json) -> None:
    round_resource_list(resources.get("limits"))
    round_resource_list(resources.get("requests"))


def round_resource_list(quantities: Json | None) -> None:
    """Round quantities finer than one thousandth up to a thousandth."""
    if not quantities:
        return
    for name, text in quantities.items():
        if isinstance(text, str) and _finer_than_milli.search(text):
            exact = Quantity.parse(text)
            rounded = Quantity.parse(f"{exact.milli_value()}m")
            if rounded != exact:
                quantities[name] = str(rounded)


def default_pod(pod: Json) -> None:
    """Defaults of a Pod: those of the spec, and those that hold in pods only."""
    spec = pod.get("spec")
    if not isinstance(spec, dict):
        return
    if spec.get("enableServiceLinks") is None:
        spec["enableServiceLinks"] = True
    for name in ("initContainers", "containers"):
        for container in spec.get(name) or ():
            _default_requests(container)
            if spec.get("hostNetwork"):
                _default_host_ports(container)
    default_pod_spec(spec)
    if (spec.get("resources") or {}).get("limits"):
        _default_pod_level_requests(spec)


def _default_requests(container: Json) -> None:
    """A resource that is limited but not requested is requested at its limit."""
    resources = container.get("resources")
    limits = resources.get("limits") if resources else None
    if not resources or not limits:
        return
    requests = resources.get("requests")
    if requests is None:
        requests = resources["requests"] = {}
    for name, quantity in limits.items():
        requests.setdefault(name, quantity)


def _default_host_ports(container: Json) -> None:
    for port in container.get("ports") or ():
        if not port.get("hostPort"):
            port["hostPort"] = port.get("containerPort", 0)


def _default_pod_level_requests(spec: Json) -> None:
    """Pod-level requests come from the containers' requests where all are known, else from the pod-level limits."""
    resources = spec["resources"]
    requests = resources.setdefault("requests", {})
    sums = sum_requests(spec.get("containers") or ())
    for name, limit in resources["limits"].items():
        if name in requests or not _supported_pod_level(name):
            continue
        requests[name] = str(sums[name]) if name in sums and not name.startswith("hugepages-") else limit
    if not requests:
        del resources["requests"]


def _supported_pod_level(name: str) -> bool:
    return name in ("cpu", "memory") or name.startswith("hugepages-")


def sum_requests(containers: Iterable[Json]) -> dict[str, Quantity]:
    total: dict[str, Quantity] = {}
    for container in containers:
        for name, text in ((container.get("resources") or {}).get("requests") or {}).items():
            quantity = Quantity.parse(text)
            total[name] = total[name] + quantity if name in total else quantity
    return total
