"""The API as one plain model: every type, its fields in wire order, and what a field's value is.

Built from three sources of facts:

* the definitions of v1.36 that the `kubernetes-validate` package carries (names, shapes, merge and list markers);
* `data/protobuf-fields.tsv`: fields in the order in which the server writes them, their protobuf numbers, and the
  few types that the definitions lack (options, reviews, discovery);
* `data/shape.txt`: whether a field may be absent, which no document says.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from .extra import EXTRA_KINDS, EXTRA_TYPES, HAND_TYPES

DATA = Path(__file__).parent.parent / "data"
VERSION = "v1.36.0-local"

# The definitions' and protobuf's packages, and the group's name in our modules: its first dotted part.
GROUP_OF_PACKAGE = {
    "admission": "admission.k8s.io",
    "admissionregistration": "admissionregistration.k8s.io",
    "apidiscovery": "apidiscovery.k8s.io",
    "apiserverinternal": "internal.apiserver.k8s.io",
    "authentication": "authentication.k8s.io",
    "authorization": "authorization.k8s.io",
    "certificates": "certificates.k8s.io",
    "coordination": "coordination.k8s.io",
    "core": "",
    "discovery": "discovery.k8s.io",
    "events": "events.k8s.io",
    "flowcontrol": "flowcontrol.apiserver.k8s.io",
    "imagepolicy": "imagepolicy.k8s.io",
    "networking": "networking.k8s.io",
    "node": "node.k8s.io",
    "rbac": "rbac.authorization.k8s.io",
    "resource": "resource.k8s.io",
    "scheduling": "scheduling.k8s.io",
    "storage": "storage.k8s.io",
    "storagemigration": "storagemigration.k8s.io",
    "apiextensions": "apiextensions.k8s.io",
    "apiregistration": "apiregistration.k8s.io",
}

# Types that are a JSON scalar or any JSON: their code in a field's node (see `tiphys.machinery.schema`).
SPECIAL = {
    "meta.v1.Time": "t",
    "meta.v1.MicroTime": "u",
    "meta.v1.FieldsV1": "o",
    "meta.v1.Duration": "s",
    "runtime.RawExtension": "o",
    "apiextensions.v1.JSON": "*",
    "apiextensions.v1.JSONSchemaPropsOrBool": "*JSONSchemaPropsOrBool",
    "apiextensions.v1.JSONSchemaPropsOrArray": "*JSONSchemaPropsOrArray",
    "apiextensions.v1.JSONSchemaPropsOrStringArray": "*JSONSchemaPropsOrStringArray",
    "quantity.Quantity": "q",
    "intstr.IntOrString": "x",
}


@dataclass(slots=True)
class Field:
    """One JSON field. `node` is the value's shape in the grammar of `tiphys.machinery.schema`."""

    name: str
    node: str
    required: bool = False
    pointer: bool = False
    value: bool = False
    always: bool = False
    omitted: bool = False
    list_type: str = ""
    list_map_keys: tuple[str, ...] = ()
    map_type: str = ""
    patch_strategy: str = ""
    patch_merge_key: str = ""
    default: object = None


@dataclass(slots=True)
class Type:
    """A struct: `name` is `<group>.<version>.<Name>`; `kind` is (group, version) for a top-level kind."""

    name: str
    fields: dict[str, Field] = field(default_factory=dict)
    atomic: bool = False
    kind: tuple[str, str] | None = None

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(slots=True)
class ProtoField:
    """One protobuf field as the table has it; `type` is a scalar, `map<K,V>`, or a full message name."""

    name: str
    number: int
    label: str
    type: str


Model = dict[str, Type]


def short_name(definition: str) -> str:
    """`io.k8s.api.core.v1.Pod` → `core.v1.Pod`; likewise for protobuf's full message names."""
    parts = definition.lstrip(".").split(".")
    name = parts[-1]
    if parts[-2] == "resource" and "apimachinery" in parts:
        return f"quantity.{name}"
    if parts[-2] in {"runtime", "intstr"}:
        return f"{parts[-2]}.{name}"
    if parts[-2] == "version":
        return f"meta.v1.Version{name}"
    group = "internal" if parts[-3] == "apiserverinternal" else parts[-3]
    return f"{group}.{parts[-2]}.{name}"


def load_definitions() -> Mapping[str, Any]:
    """The definitions of v1.36 of the installed `kubernetes-validate` package, by full name."""
    path = files("kubernetes_validate") / "kubernetes-json-schema" / VERSION / "_definitions.json"
    definitions: Mapping[str, Any] = json.loads(path.read_bytes())["$defs"]
    return definitions


def load_protobuf() -> dict[str, list[ProtoField]]:
    """Every message's fields in the order of the table, by short name."""
    messages: dict[str, list[ProtoField]] = {}
    with (DATA / "protobuf-fields.tsv").open() as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            package, name = row["package"], row["message"]
            kind = row["type"]
            if not kind.startswith("map<") and kind not in SCALARS:
                kind = resolve(kind, package)
            elif kind.startswith("map<"):
                key, value = kind[4:-1].split(",")
                kind = f"map<{key},{value if value in SCALARS else resolve(value, package)}>"
            messages.setdefault(short_name(f"{package}.{name}"), []).append(
                ProtoField(row["field"], int(row["number"]), row["label"], kind)
            )
    return messages


SCALARS = {"string", "bytes", "bool", "int32", "int64", "double"}


def resolve(name: str, package: str) -> str:
    """A message reference of the table, absolute or relative to its package, as a short name."""
    return short_name(name) if "." in name else short_name(f"{package}.{name}")


def scalar_node(schema: Mapping[str, Any]) -> str:
    """The node of a scalar schema."""
    kinds = schema.get("type")
    kind = kinds if isinstance(kinds, str) else kinds[0] if kinds else "any"
    form = schema.get("format")
    if kind == "string":
        return "y" if form == "byte" else "s"
    if kind == "integer":
        return "l" if form == "int64" else "i"
    return {"number": "f", "boolean": "b", "object": "o", "any": "*"}[kind]


def node_of(schema: Mapping[str, Any]) -> str:
    """The node of any schema of the definitions."""
    if "$ref" in schema:
        name = short_name(schema["$ref"].removeprefix("#/$defs/"))
        return SPECIAL.get(name) or f"@{name}"
    if "items" in schema and "array" in schema["type"]:
        return "[" + node_of(schema["items"])
    if "additionalProperties" in schema:
        return "{" + node_of(schema["additionalProperties"])
    return scalar_node(schema)


def field_of(name: str, schema: Mapping[str, Any], required: bool) -> Field:
    """A field with its list, map and patch markers."""
    ours = Field(name, node_of(schema), required)
    ours.list_type = schema.get("x-kubernetes-list-type", "") if ours.node[0] == "[" else ""
    ours.list_map_keys = tuple(schema.get("x-kubernetes-list-map-keys", ()))
    ours.map_type = schema.get("x-kubernetes-map-type", "")
    ours.patch_strategy = schema.get("x-kubernetes-patch-strategy", "")
    ours.patch_merge_key = schema.get("x-kubernetes-patch-merge-key", "")
    return ours


def load_model() -> tuple[Model, dict[str, list[ProtoField]]]:
    """Every type we write, fields in wire order, and the protobuf table."""
    messages = load_protobuf()
    model: Model = {}
    for full_name, schema in load_definitions().items():
        name = short_name(full_name)
        if name in SPECIAL or name == "meta.v1.Patch":
            continue
        kinds = schema.get("x-kubernetes-group-version-kind", ())
        required = set(schema.get("required", ()))
        kind = own_kind(name, kinds)
        ours = Type(name, atomic=schema.get("x-kubernetes-map-type") == "atomic", kind=kind)
        for key, value in schema.get("properties", {}).items():
            if kind is None or key not in {"apiVersion", "kind"}:
                ours.fields[key] = field_of(key, value, key in required)
        model[name] = ours
    for name in EXTRA_TYPES:
        if name not in model:
            model[name] = Type(name, {f.name: f for f in proto_fields(messages[name])}, kind=EXTRA_KINDS.get(name))
    for name, (kind, fields) in HAND_TYPES.items():
        model[name] = Type(name, {k: Field(k, node, required) for k, (node, required) in fields.items()}, kind=kind)
    apply_shape(model)
    for ours in model.values():
        if ours.name in messages:
            order = {key: i for i, key in enumerate(wire_order(ours, messages))}
            ours.fields = dict(sorted(ours.fields.items(), key=lambda item: order.get(item[0], 999)))
    return model, messages


def own_kind(name: str, kinds: Any) -> tuple[str, str] | None:
    """(group, version) when the type is a kind by itself; options and Status carry every group, ours is v1."""
    if not kinds:
        return None
    if name.startswith("meta.v1."):
        return ("", "v1")
    group, version, _ = name.split(".")
    full = next((k for k in kinds if k["version"] == version and k["group"].split(".")[0] in {group, ""}), kinds[0])
    return full["group"], full["version"]


def proto_fields(fields: list[ProtoField]) -> Iterator[Field]:
    """Fields of a type that only the protobuf table knows."""
    codes = {"string": "s", "bytes": "y", "bool": "b", "int32": "i", "int64": "l", "double": "f"}

    def node(kind: str) -> str:
        return codes.get(kind) or SPECIAL.get(kind) or f"@{kind}"

    for one in fields:
        if one.type.startswith("map<"):
            value = one.type[4:-1].split(",")[1]
            yield Field(one.name, "{" + ("[s" if value.endswith(".ExtraValue") else node(value)))
        else:
            yield Field(one.name, ("[" if one.label == "repeated" else "") + node(one.type))


def wire_order(ours: Type, messages: Mapping[str, list[ProtoField]]) -> list[str]:
    """JSON names in the order in which the server writes them: embedded structs in their place."""
    return [path[-1] for path, _ in flatten(ours, messages)]


# Names of the protobuf fields that hold an embedded struct, whose members are its owner's in JSON.
EMBEDDED = {
    "deviceConfiguration",
    "ephemeralContainerCommon",
    "handler",
    "ingressRuleValue",
    "localObjectReference",
    "persistentVolumeSource",
    "rule",
    "ruleWithOperations",
    "volumeSource",
}


def json_name(name: str, fields: Mapping[str, object]) -> str | None:
    """The JSON name among `fields` of a protobuf field: the same but for case, dashes and a leading `$`."""
    if name in fields:
        return name
    plain = name.lower()
    return next((key for key in fields if key.lower().replace("-", "").lstrip("$") == plain), None)


def flatten(ours: Type, messages: Mapping[str, list[ProtoField]]) -> Iterator[tuple[tuple[str, ...], ProtoField]]:
    """((embedded message, …, JSON name), field) for every field, through embedded structs."""
    for one in messages.get(ours.name, ()):
        key = json_name(one.name, ours.fields)
        if key is not None:
            yield (key,), one
        elif one.name in EMBEDDED:
            inner = Type(one.type, ours.fields)
            for path, leaf in flatten(inner, messages):
                yield (one.name, *path), leaf


def apply_shape(model: Model) -> None:
    """Read `shape.txt` into the model. A line that names an unknown type or field is an error."""
    for line in (DATA / "shape.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        verb, _, rest = line.partition(" ")
        pattern, _, names = rest.partition(":")
        group, version, short = pattern.split(".")
        targets = [t for t in model.values() if matches(t, group, version, short)]
        if not targets:
            raise SystemExit(f"shape.txt: no type {pattern}")
        for name in names.split():
            if not any(mark(target, name, verb) for target in targets):
                raise SystemExit(f"shape.txt: no field {name} in {pattern}")
    for ours in model.values():
        mark_structure(ours)


def matches(ours: Type, group: str, version: str, short: str) -> bool:
    """Does a pattern of `shape.txt` mean this type?"""
    g, v, s = ours.name.split(".") if ours.name.count(".") == 2 else ("", "", "")
    return g == group and s == short and version in {v, "*"}


def mark(ours: Type, name: str, verb: str) -> bool:
    """Set what one word of `shape.txt` says; False when the type has no such field."""
    one = ours.fields.get(name)
    if one is None:
        return False
    match verb:
        case "ptr":
            one.pointer = True
        case "val":
            one.value = True
            one.always = True
        case "all":
            one.always = True
        case "not":
            one.omitted = True
        case _:
            raise SystemExit(f"shape.txt: unknown word {verb}")
    return True


def mark_structure(ours: Type) -> None:
    """What holds for every type: metadata, spec and status are values; a required field is always written."""
    for name in ("metadata", "spec", "status"):
        one = ours.fields.get(name)
        if one is not None and one.node[0] == "@" and ours.name not in POINTER_STATUS:
            one.value = one.always = True
    for one in ours.fields.values():
        one.always = (one.always or one.required) and not one.omitted
    if ours.name in {"core.v1.ContainerPort", "core.v1.ServicePort"}:
        ours.fields["protocol"].default = "TCP"
    if ours.name == "core.v1.LocalObjectReference":
        ours.fields["name"].default = ""


# Their status is a pointer: absent until it is set.
POINTER_STATUS = {"resource.v1alpha3.ResourcePoolStatusRequest", "apiextensions.v1.CustomResourceSubresources"}
