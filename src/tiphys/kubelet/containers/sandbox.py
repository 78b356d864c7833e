"""The CRI description of a pod's sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.containers.dns import Resolver
from tiphys.kubelet.containers.limits import pod_resources
from tiphys.kubelet.containers.security import sandbox_security
from tiphys.kubelet.cri.labels import pod_labels
from tiphys.kubelet.pod import all_containers
from tiphys.kubelet.usernamespaces import IDs

_PROTOCOLS: Final = {"": cri.TCP, "TCP": cri.TCP, "UDP": cri.UDP, "SCTP": cri.SCTP}


def sandbox_config(
    pod: Pod,
    *,
    attempt: int,
    hostname: str,
    resolver: Resolver,
    log_directory: str,
    cgroup_parent: str,
    users: IDs | None = None,
) -> cri.PodSandboxConfig:
    """The request for the `attempt`-th sandbox of `pod`."""
    linux = cri.LinuxPodSandboxConfig(
        cgroup_parent=cgroup_parent,
        security_context=sandbox_security(pod, users),
        sysctls=_sysctls(pod),
        resources=pod_resources(pod),
    )
    return cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(
            name=pod.metadata.name, uid=pod.metadata.uid, namespace=pod.metadata.namespace, attempt=attempt
        ),
        hostname="" if pod.spec.host_network else hostname,
        log_directory=log_directory,
        dns_config=cri.DNSConfig(servers=resolver.servers, searches=resolver.searches, options=resolver.options),
        port_mappings=_port_mappings(pod),
        labels=pod_labels(pod),
        annotations=dict(pod.metadata.annotations),
        linux=linux,
    )


def _port_mappings(pod: Pod) -> Iterator[cri.PortMapping]:
    if pod.spec.host_network:
        return
    for container in all_containers(pod):
        for port in container.ports:
            if port.host_port:
                yield cri.PortMapping(
                    protocol=_PROTOCOLS.get(port.protocol, cri.TCP),
                    container_port=port.container_port,
                    host_port=port.host_port,
                    host_ip=port.host_ip,
                )


def _sysctls(pod: Pod) -> dict[str, str]:
    context = pod.spec.security_context
    # A slash is the other spelling of a dot (sysctl.d(5)).
    return {item.name.replace("/", "."): item.value for item in context.sysctls} if context else {}
