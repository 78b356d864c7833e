"""Warnings of files in volumes that would hide one another.

https://kubernetes.io/docs/concepts/storage/projected-volumes/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tiphys.machinery.field import quote

Json = Mapping[str, Any]


def overlap_warnings(volume: Json) -> list[str]:
    """Of the items of one volume; sources of projected volumes are told apart by name."""
    head = f"volume {quote(volume.get('name') or '')}"
    for kind, (text, name) in {
        "configMap": ("ConfigMap", "name"),
        "secret": ("Secret", "secretName"),
        "downwardAPI": ("DownwardAPI", ""),
    }.items():
        source = volume.get(kind)
        if source is not None:
            of = f"{text} {quote(source.get(name) or '')}" if name else text
            paths = [(item.get("path") or "", "") for item in source.get("items") or ()]
            return [f"{head} ({of}): {one}" for one in _overlaps(paths)]
    if volume.get("projected") is None:
        return []
    warnings: list[str] = []
    known: list[tuple[str, str]] = []
    for source in volume["projected"].get("sources") or ():
        found = _source_paths(source)
        if found is None:
            warnings.append(f"{head} (Projected) has no sources provided")
            continue
        warnings += [f"{head} (Projected): {one}" for one in _overlaps(found, known)]
        known += found
    return list(dict.fromkeys(warnings))


def _source_paths(source: Json) -> list[tuple[str, str]] | None:
    """(path, what it comes from) of each file of a projection; None when it projects nothing."""
    for kind, text in (("secret", "Secret"), ("configMap", "ConfigMap"), ("downwardAPI", "DownwardAPI")):
        if source.get(kind) is not None:
            of = text if kind == "downwardAPI" else f"{text} {quote(source[kind].get('name') or '')}"
            return [(item.get("path") or "", f" ({of})") for item in source[kind].get("items") or ()]
    if source.get("serviceAccountToken") is not None:
        return [(source["serviceAccountToken"].get("path") or "", " (ServiceAccountToken)")]
    return None


def _overlaps(paths: Sequence[tuple[str, str]], known: Sequence[tuple[str, str]] = ()) -> list[str]:
    found: list[str] = []
    before = list(known)
    for path, of in paths:
        found += [
            f"overlapping paths: {quote(path)}{of} with {quote(other)}{other_of}"
            for other, other_of in before
            if _covers(path, other) or _covers(other, path)
        ]
        before.append((path, of))
    return found


def _covers(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}/")
