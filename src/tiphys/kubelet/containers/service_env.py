"""Environment variables that name the services of a namespace, in the form Docker links had.

https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
"""

from __future__ import annotations

from collections.abc import Iterable

from tiphys.api.core.v1 import Service, ServicePort


def service_environment(services: Iterable[Service], namespace: str, *, links: bool) -> dict[str, str]:
    """The variables for a pod of `namespace`: its services when `links`, and always the API server's."""
    chosen: dict[str, Service] = {}
    for service in services:
        if service.spec.cluster_ip in ("", "None"):
            continue
        where, name = service.metadata.namespace, service.metadata.name
        if where == "default" and name == "kubernetes":
            chosen.setdefault(name, service)
        if links and where == namespace:
            chosen[name] = service
    variables: dict[str, str] = {}
    for name in sorted(chosen):
        variables.update(_variables(chosen[name]))
    return variables


def _variables(service: Service) -> dict[str, str]:
    prefix = service.metadata.name.replace("-", "_").upper()
    host = service.spec.cluster_ip
    ports = service.spec.ports
    if not ports:
        return {f"{prefix}_SERVICE_HOST": host}
    variables = {f"{prefix}_SERVICE_HOST": host, f"{prefix}_SERVICE_PORT": str(ports[0].port)}
    for port in ports:
        if port.name:
            variables[f"{prefix}_SERVICE_PORT_{port.name.replace('-', '_').upper()}"] = str(port.port)
    variables[f"{prefix}_PORT"] = _url(host, ports[0])
    for port in ports:
        stem = f"{prefix}_PORT_{port.port}_{_protocol(port).upper()}"
        variables[stem] = _url(host, port)
        variables[f"{stem}_PROTO"] = _protocol(port)
        variables[f"{stem}_PORT"] = str(port.port)
        variables[f"{stem}_ADDR"] = host
    return variables


def _protocol(port: ServicePort) -> str:
    return (port.protocol or "TCP").lower()


def _url(host: str, port: ServicePort) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{_protocol(port)}://{shown}:{port.port}"
