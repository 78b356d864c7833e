"""Puts a probe's question to a container, in the way the spec chose."""

from __future__ import annotations

from typing import Final

from tiphys.api.core.v1 import Probe
from tiphys.kubelet.cri.client import CRIClient
from tiphys.kubelet.pod import AnyContainer
from tiphys.kubelet.probes.command import probe_command
from tiphys.kubelet.probes.grpc_health import probe_grpc
from tiphys.kubelet.probes.http import USER_AGENT, headers_of, probe_http, url_of
from tiphys.kubelet.probes.outcome import Outcome, error
from tiphys.kubelet.probes.tcp import probe_tcp

DEFAULT_TIMEOUT: Final = 1


def resolve_port(port: int | str, container: AnyContainer) -> int:
    """The number of a port given by number or by the name of one of the container's. Raises ValueError."""
    if isinstance(port, int):
        return port
    for known in container.ports:
        if known.name == port:
            return known.container_port
    if port.isdigit():
        return int(port)
    raise ValueError(f"couldn't find port: {port}")


async def ask(
    runtime: CRIClient,
    probe: Probe,
    container: AnyContainer,
    container_id: str,
    pod_ip: str,
) -> Outcome:
    """One answer; never raises for what the container does."""
    timeout = probe.timeout_seconds or DEFAULT_TIMEOUT
    try:
        if probe.exec is not None:
            return await probe_command(runtime, container_id, probe.exec.command, timeout)
        if probe.http_get is not None:
            url = url_of(probe.http_get, pod_ip, resolve_port(probe.http_get.port, container))
            return await probe_http(url, headers_of(probe.http_get, USER_AGENT), timeout)
        if probe.tcp_socket is not None:
            host = probe.tcp_socket.host or pod_ip
            return await probe_tcp(host, resolve_port(probe.tcp_socket.port, container), timeout)
        if probe.grpc is not None:
            return await probe_grpc(pod_ip, probe.grpc.port, probe.grpc.service or "", timeout)
    except ValueError as problem:
        return error(str(problem))
    return error(f"missing probe handler for {container.name}")
