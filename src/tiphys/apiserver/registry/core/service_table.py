"""The row of a service, as `kubectl get services` shows it."""

from __future__ import annotations

from datetime import datetime

from tiphys.apiserver.registry.kinds import name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.tables import NONE, labels_text


def service_row(service: Object, now: datetime) -> list[Cell]:
    """The cells of one service."""
    spec = spec_of(service)
    ips = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    return [
        name_of(service),
        spec.get("type") or "",
        ips[0] if ips else NONE,
        external_address(service),
        _ports(spec),
        age(service, now),
        labels_text(spec.get("selector")),
    ]


def external_address(service: Object) -> str:
    """Where a service is reached from outside; `<pending>` while a load balancer is awaited."""
    spec = spec_of(service)
    external = list(spec.get("externalIPs") or ())
    match spec.get("type"):
        case "ExternalName":
            return spec.get("externalName") or ""
        case "LoadBalancer":
            balanced = _balanced(service)
            if external:
                return ",".join([*balanced, *external])
            return ",".join(balanced) or "<pending>"
        case _:
            return ",".join(external) or NONE


def _balanced(service: Object) -> list[str]:
    ingress = (status_of(service).get("loadBalancer") or {}).get("ingress") or ()
    return [one.get("ip") or one.get("hostname") or "" for one in ingress]


def _ports(spec: Object) -> str:
    texts = []
    for port in spec.get("ports") or ():
        number = f"{port.get('port')}:{port['nodePort']}" if port.get("nodePort") else f"{port.get('port')}"
        texts.append(f"{number}/{port.get('protocol')}")
    return ",".join(texts) or NONE
