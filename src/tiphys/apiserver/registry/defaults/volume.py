"""Defaults of volumes: in pods, and of the sources PersistentVolumes share with them.

https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/volume/
"""

from __future__ import annotations

from typing import Any, Final

from tiphys.apiserver.registry.defaults.image import pull_policy_for

Json = dict[str, Any]

# Permission bits of files made from secrets, config maps …: 0644.
DEFAULT_MODE: Final = 0o644
SERVICE_ACCOUNT_TOKEN_SECONDS: Final = 3600


def default_volume(volume: Json) -> None:
    """Defaults of one entry of `spec.volumes`; without any source it is an emptyDir."""
    sources = [name for name, value in volume.items() if name != "name" and value is not None]
    if not sources:
        volume["emptyDir"] = {}
        return
    for name in ("secret", "configMap", "downwardAPI", "projected"):
        source = volume.get(name)
        if source is not None and source.get("defaultMode") is None:
            source["defaultMode"] = DEFAULT_MODE
    _default_downward_items(volume.get("downwardAPI"))
    for projection in (volume.get("projected") or {}).get("sources") or ():
        _default_downward_items(projection.get("downwardAPI"))
        token = projection.get("serviceAccountToken")
        if token is not None and token.get("expirationSeconds") is None:
            token["expirationSeconds"] = SERVICE_ACCOUNT_TOKEN_SECONDS
    image = volume.get("image")
    if image is not None and not image.get("pullPolicy"):
        image["pullPolicy"] = pull_policy_for(image.get("reference") or "")
    template = (volume.get("ephemeral") or {}).get("volumeClaimTemplate")
    if template and isinstance(template.get("spec"), dict):
        default_claim_spec(template["spec"])
    default_persistent_source(volume)


def _default_downward_items(source: Json | None) -> None:
    for item in (source or {}).get("items") or ():
        reference = item.get("fieldRef")
        if reference is not None and not reference.get("apiVersion"):
            reference["apiVersion"] = "v1"


def default_claim_spec(spec: Json) -> None:
    if spec.get("volumeMode") is None:
        spec["volumeMode"] = "Filesystem"


def default_persistent_source(source: Json) -> None:
    """Sources that pods and PersistentVolumes have in common."""
    host_path = source.get("hostPath")
    if host_path is not None and host_path.get("type") is None:
        host_path["type"] = ""
    _fill(source.get("iscsi"), iscsiInterface="default")
    _fill(source.get("rbd"), pool="rbd", user="admin", keyring="/etc/ceph/keyring")
    _fill(source.get("azureDisk"), cachingMode="ReadWrite", fsType="ext4", readOnly=False, kind="Shared")
    _fill(source.get("scaleIO"), storageMode="ThinProvisioned", fsType="xfs")


def _fill(source: Json | None, **defaults: Any) -> None:
    if source is None:
        return
    for name, value in defaults.items():
        if source.get(name) in (None, ""):
            source[name] = value
