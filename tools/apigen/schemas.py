"""Writes `data/types.json` (shapes for patches and checks) and `data/protobuf.json` (the wire table)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .model import EMBEDDED, SCALARS, Field, Model, ProtoField, json_name


def field_facts(one: Field) -> list[Any]:
    """[name, node] and, when there are any, the field's markers under one-letter keys."""
    marks: dict[str, Any] = {}
    if one.required:
        marks["r"] = 1
    if one.pointer:
        marks["p"] = 1
    if one.value:
        marks["v"] = 1
    if one.always:
        marks["a"] = 1
    if one.list_type:
        marks["l"] = one.list_type
    if one.list_map_keys:
        marks["k"] = list(one.list_map_keys)
    if one.map_type:
        marks["m"] = one.map_type
    if one.patch_strategy:
        marks["s"] = one.patch_strategy
    if one.patch_merge_key:
        marks["g"] = one.patch_merge_key
    if one.default is not None:
        marks["d"] = one.default
    return [one.name, one.node, marks] if marks else [one.name, one.node]


def render_schemas(model: Model) -> str:
    """One line a type, sorted, so that a change of the API reads well as a diff."""
    lines = []
    for name in sorted(model):
        ours = model[name]
        entry: dict[str, Any] = {"f": [field_facts(one) for one in ours.fields.values()]}
        if ours.atomic:
            entry["m"] = "atomic"
        if ours.kind is not None:
            entry["k"] = list(ours.kind)
        lines.append(f'"{name}":{json.dumps(entry, separators=(",", ":"))}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


CODES = {"string": "s", "bytes": "y", "bool": "b", "int32": "i", "int64": "i", "double": "f"}


def proto_node(kind: str) -> str:
    return CODES.get(kind) or f"@{kind}"


def proto_facts(path: str, one: ProtoField) -> list[Any]:
    """[JSON name, number, node]: node is `[x` for repeated, `{x` for a map from strings, else the value."""
    if one.type.startswith("map<"):
        return [path, one.number, "{" + proto_node(one.type[4:-1].split(",")[1])]
    return [path, one.number, ("[" if one.label == "repeated" else "") + proto_node(one.type)]


def render_protobuf(model: Model, messages: Mapping[str, list[ProtoField]]) -> str:
    """One line a message. An embedded struct is a field whose name is empty: its members are its owner's."""
    lines = []
    # Messages without fields are in the table only as the type of somebody's field.
    used = {re.sub(r"^map<string,|>$", "", one.type) for fields in messages.values() for one in fields}
    empty: dict[str, list[ProtoField]] = {name: [] for name in used - messages.keys() - SCALARS}
    messages = {**messages, **empty}
    for name in sorted(messages):
        names = json_names(name, model, messages)
        fields = [proto_facts(names.get(one.name, one.name), one) for one in messages[name]]
        facts: dict[str, Any] = {"f": sorted(fields, key=lambda f: int(f[1]))}
        kept = zero_kept(name, model, fields)
        if kept:
            facts["z"] = kept
        lines.append(f'"{name}":{json.dumps(facts, separators=(",", ":"))}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def zero_kept(name: str, model: Model, fields: list[list[Any]]) -> list[int]:
    """Numbers of the fields that are written even when absent: values, never lists, maps or pointers."""
    ours = model.get(name)
    if ours is None:
        return []
    kept = []
    for key, number, node in fields:
        one = ours.fields.get(key)
        if one is not None and node[0] not in "[{" and is_value(one, node):
            kept.append(number)
    return sorted(kept)


def is_value(one: Field, node: str) -> bool:
    """Is the field a plain value in the server's types, so that its zero is written?"""
    if one.pointer:
        return False
    if node[0] == "@":
        return one.value or (one.required and not one.node.startswith("@meta.v1.LabelSelector"))
    return node != "y"


def json_names(name: str, model: Model, messages: Mapping[str, list[ProtoField]]) -> dict[str, str]:
    """Protobuf name → JSON name; "" for an embedded struct.

    A message of an extinct version has no definition: its names are those of the type of the same name
    in a living version, or its own.
    """
    short = name.rpartition(".")[2]
    known = [model[name]] if name in model else [t for t in model.values() if t.short == short]
    names: dict[str, str] = {}
    for one in messages[name]:
        key = next(filter(None, (json_name(one.name, t.fields) for t in known)), None)
        names[one.name] = key or ("" if one.name in EMBEDDED else one.name[0].lower() + one.name[1:])
    return names
