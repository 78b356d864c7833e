"""What runs in every cluster besides its components: cluster DNS, and volumes for whoever claims one."""

from __future__ import annotations

from typing import Any

from tiphys.cmd.cluster.spec import ClusterSpec
from tiphys.controllers.localpath import manifests as local_path
from tiphys.dns.manifests import CONFIG_DIRECTORY, manifests
from tiphys.ingress.ingresses import CONTROLLER as INGRESS_CONTROLLER
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


def ingress_class() -> Object:
    """The class of Ingresses that `up --ingress` serves, the default of those that name none."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": "tiphys", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": INGRESS_CONTROLLER},
    }


def local_storage() -> tuple[list[Object], Object]:
    """What the local-path provisioner may do, which is applied, and its storage class, which is made once."""
    return local_path.rights(), local_path.storage_class()
