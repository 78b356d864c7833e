"""A pod's names: its hostname, its domain, and the /etc/hosts that it is given.

https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-hostname-and-subdomain-fields and
https://kubernetes.io/docs/tasks/network/customize-hosts-file-for-pods/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tiphys.api.core.v1 import Pod

MAX_LABEL: Final = 63
MAX_HOSTNAME: Final = 64  # what sethostname(2) takes

_HEADER: Final = "# Kubernetes-managed hosts file.\n"
_HOST_HEADER: Final = "# Kubernetes-managed hosts file (host network).\n"
_LOOPBACK: Final = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\n"
    "fe00::0\tip6-mcastprefix\n"
    "fe00::1\tip6-allnodes\n"
    "fe00::2\tip6-allrouters\n"
)


def pod_hostname(pod: Pod, cluster_domain: str) -> tuple[str, str]:
    """(hostname, domain): the domain is empty for a pod without a subdomain."""
    if pod.spec.hostname_override:
        return pod.spec.hostname_override[:MAX_HOSTNAME], ""
    name = pod.spec.hostname or pod.metadata.name[:MAX_LABEL].rstrip("-.")
    domain = ""
    if pod.spec.subdomain:
        domain = f"{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}"
    return name, domain


def kernel_hostname(pod: Pod, cluster_domain: str) -> str:
    """What `hostname` prints in the pod. Raises ValueError when an FQDN is asked for that is too long."""
    name, domain = pod_hostname(pod, cluster_domain)
    if not pod.spec.set_hostname_as_fqdn or not domain:
        return name
    full = f"{name}.{domain}"
    if len(full) > MAX_HOSTNAME:
        raise ValueError(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long "
            f"({MAX_HOSTNAME} characters is the max, {len(full)} characters requested)"
        )
    return full


def hosts_file(pod: Pod, pod_ips: Sequence[str], cluster_domain: str, node_hosts: str) -> str:
    """The content of the pod's /etc/hosts; `node_hosts` is the node's own file."""
    if pod.spec.host_network:
        content = _HOST_HEADER + node_hosts
    else:
        name, domain = pod_hostname(pod, cluster_domain)
        names = f"{name}.{domain}\t{name}" if domain else name
        content = _HEADER + _LOOPBACK + "".join(f"{ip}\t{names}\n" for ip in pod_ips)
    if pod.spec.host_aliases:
        content += "\n# Entries added by HostAliases.\n"
        for alias in pod.spec.host_aliases:
            content += f"{alias.ip}\t" + "\t".join(alias.hostnames) + "\n"
    return content
