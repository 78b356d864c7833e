"""Builders shared by the tests of the watch cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiphys.apiserver.watchcache import Entry, KindCache, encode_stored

UID = "00000000-0000-0000-0000-0000000000"


def make_object(name: str, namespace: str = "d", **more: Any) -> dict[str, Any]:
    """A config map that has a uid; `labels` and `data` may be given."""
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "uid": f"{UID}{len(name):02d}"}
    if "labels" in more:
        metadata["labels"] = more.pop("labels")
    return {"metadata": metadata, **more}


def make_entry(name: str, revision: int, namespace: str = "d", **more: Any) -> Entry:
    """An entry as the cache makes it of a stored value."""
    value = encode_stored(make_object(name, namespace, **more), "ConfigMap", "v1")
    return Entry(f"{namespace}/{name}", namespace, name, value, revision, revision)


def fields_of(obj: Mapping[str, Any]) -> dict[str, str]:
    """Selectable fields: the metadata, and `node` of the data."""
    metadata = obj["metadata"]
    return {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "spec.nodeName": (obj.get("data") or {}).get("node", ""),
    }


def make_cache(revision: int = 0, *, max_events: int = 1000) -> KindCache:
    """An empty cache of config maps."""
    return KindCache(
        "/registry/core/configmaps/",
        namespaced=True,
        selectable_fields=fields_of,
        revision=revision,
        max_events=max_events,
    )
