"""Files made from objects: the shared part of the configMap, secret, downwardAPI and projected plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tiphys.api.core.v1 import ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret
from tiphys.kubelet.containers.errors import ConfigError
from tiphys.kubelet.containers.fields import field_value, resource_value
from tiphys.kubelet.pod import container_named
from tiphys.kubelet.volumes.atomic import File, Payload, write_atomically
from tiphys.kubelet.volumes.plugin import VolumeContext, VolumeError

DEFAULT_MODE: Final = 0o644


def keyed_files(
    data: Mapping[str, bytes], items: Sequence[KeyToPath], mode: int, what: str, *, optional: bool
) -> dict[str, File]:
    """The chosen keys of an object as files, or all of them when `items` is empty."""
    if not items:
        return {key: File(content, mode) for key, content in data.items()}
    files = {}
    for item in items:
        if item.key not in data:
            if optional:
                continue
            raise VolumeError(f"{what} references non-existent {_noun(what)} key: {item.key}")
        files[item.path] = File(data[item.key], mode if item.mode is None else item.mode)
    return files


def _noun(what: str) -> str:
    return "config" if what == "configmap" else "secret"


def config_map_data(source: ConfigMap) -> dict[str, bytes]:
    return {**{key: text.encode() for key, text in source.data.items()}, **source.binary_data}


def secret_data(source: Secret) -> dict[str, bytes]:
    return dict(source.data)


def downward_files(context: VolumeContext, items: Sequence[DownwardAPIVolumeFile], mode: int) -> dict[str, File]:
    """Fields of the pod as files."""
    files = {}
    for item in items:
        try:
            if item.field_ref is not None:
                text = field_value(context.pod, item.field_ref, context.pod_ips, context.host_ips)
            elif item.resource_field_ref is not None:
                container = container_named(context.pod, item.resource_field_ref.container_name)
                if container is None:
                    raise VolumeError(f"container {item.resource_field_ref.container_name} not found")
                text = resource_value(context.pod, container, item.resource_field_ref, context.allocatable)
            else:
                continue
        except ConfigError as error:
            raise VolumeError(error.message) from error
        files[item.path] = File(text.encode(), mode if item.mode is None else item.mode)
    return files


def write_payload(directory: Path, payload: Payload, group: int | None) -> None:
    """Write in a thread's time: blocks on the file system. Raises VolumeError for a path that is not allowed."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        write_atomically(directory, payload, group)
    except ValueError as error:
        raise VolumeError(str(error)) from error
