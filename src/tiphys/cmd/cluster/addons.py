"""What runs in every cluster besides its components: cluster DNS."""

from __future__ import annotations

from typing import Any

from tiphys.cmd.cluster.spec import ClusterSpec
from tiphys.dns.manifests import CONFIG_DIRECTORY, manifests
from tiphys.runtime.images.system import system_image_name

Object = dict[str, Any]


def cluster_dns(spec: ClusterSpec) -> list[Object]:
    """The objects of cluster DNS, in the order they are applied."""
    return manifests(
        spec.dns_address,
        spec.cluster_domain,
        image=system_image_name(),
        replicas=min(2, len(spec.nodes)),
        command=("python3", "-m", "tiphys.cmd.main", "dns", "--conf", f"{CONFIG_DIRECTORY}/Corefile"),
    )
