"""Schemas of all kinds, read lazily from the generated data."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import orjson

from tiphys.machinery.schema import TypeSchema, type_schema


@cache
def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = orjson.loads((Path(__file__).parent / "data" / "types.json").read_bytes())
    return facts


@cache
def _spellings() -> dict[str, Any]:
    """What messages about a type say beyond its shape: `t` names of fields' types, `e` fields by embedded struct."""
    facts: dict[str, Any] = orjson.loads((Path(__file__).parent / "data" / "typenames.json").read_bytes())
    return facts


@cache
def schema_by_name(name: str) -> TypeSchema:
    """The schema of `<group>.<version>.<Name>`, such as `core.v1.PodSpec`. Raises KeyError."""
    return type_schema(name, {**_facts()[name], **_spellings().get(name, {})}, schema_by_name)


# Kinds of the core version that live beside the types of all groups.
_META = frozenset(
    {
        "APIGroup",
        "APIGroupList",
        "APIResourceList",
        "APIVersions",
        "ApplyOptions",
        "CreateOptions",
        "DeleteOptions",
        "GetOptions",
        "List",
        "ListOptions",
        "PatchOptions",
        "Status",
        "UpdateOptions",
        "WatchEvent",
    }
)


def type_name(group: str, version: str, kind: str) -> str:
    """The name of a kind's schema: `apps/v1, Deployment` → `apps.v1.Deployment`."""
    if kind in _META:
        return f"meta.v1.{kind}"
    return f"{group.partition('.')[0] or 'core'}.{version}.{kind}"


def schema_of(group: str, version: str, kind: str) -> TypeSchema:
    """The schema of a kind. Raises KeyError for a kind that is not built in."""
    return schema_by_name(type_name(group, version, kind))


def has_schema(group: str, version: str, kind: str) -> bool:
    """Is the kind built in?"""
    return type_name(group, version, kind) in _facts()
