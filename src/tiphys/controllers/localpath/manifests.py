"""What a cluster needs to have for the provisioner: its rights, and the class that leads to it. Plain data."""

from __future__ import annotations

from typing import Any, Final

from tiphys.controllers.localpath.volumes import PROVISIONER
from tiphys.controllers.persistentvolume.claims import DEFAULT_CLASS

ACCOUNT: Final = "local-path-provisioner"
ROLE: Final = "tiphys:local-path-provisioner"
CLASS: Final = "local-path"
_RULES: Final = (
    ("", ("persistentvolumes",), ("get", "create", "update", "delete")),
    ("", ("persistentvolumeclaims",), ("get", "update")),
    ("", ("nodes",), ("get",)),
    ("", ("pods",), ("get", "create", "delete")),
    ("", ("events",), ("create", "patch", "update")),
)


def rights() -> list[dict[str, Any]]:
    """The objects that let the controller's account do its work."""
    rules = [{"apiGroups": [group], "resources": list(kinds), "verbs": list(verbs)} for group, kinds, verbs in _RULES]
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": ROLE}, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": ROLE},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": ROLE},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "kube-system"}],
        },
    ]


def storage_class() -> dict[str, Any]:
    """The class `local-path`, the default. To be made once: whether it stays the default is its owner's choice."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {DEFAULT_CLASS: "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
