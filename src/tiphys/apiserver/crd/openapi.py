"""Custom resources in the OpenAPI documents, for `kubectl explain` and client-side validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.api.table import Resource

Object = dict[str, Any]

META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
_TYPE_META: Final = {
    "apiVersion": {
        "description": "APIVersion defines the versioned schema of this representation of an object. Servers should "
        "convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: "
        "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
        "type": "string",
    },
    "kind": {
        "description": "Kind is a string value representing the REST resource this object represents. Servers may "
        "infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: "
        "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
        "type": "string",
    },
}
# What OpenAPI v2 does not know, and what only the server needs.
_DROPPED: Final = frozenset({"oneOf", "anyOf", "allOf", "not", "nullable", "x-kubernetes-validations", "example"})


def definition_name(resource: Resource) -> str:
    """`com.example.stable.v1.CronTab`."""
    return f"{'.'.join(reversed(resource.group.split('.')))}.{resource.version}.{resource.kind}"


def definitions_of(resource: Resource, raw: Mapping[str, Any], selectable: Sequence[str] = ()) -> dict[str, Object]:
    """The definitions of a kind and of its list, in the form of v2. `selectable`: paths field selectors may name."""
    name = definition_name(resource)
    gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    schema = plain(raw)
    properties = {**_TYPE_META, "metadata": _reference("ObjectMeta", _METADATA_TEXT)}
    properties.update({key: one for key, one in (schema.get("properties") or {}).items() if key not in properties})
    kind: Object = {**schema, "type": "object", "properties": properties, "x-kubernetes-group-version-kind": [gvk]}
    if schema.get("x-kubernetes-preserve-unknown-fields") and not raw.get("properties"):
        kind = {
            "type": "object",
            "x-kubernetes-group-version-kind": [gvk],
            "x-kubernetes-preserve-unknown-fields": True,
        }
    if selectable:
        kind["x-kubernetes-selectable-fields"] = [{"fieldPath": path.lstrip(".")} for path in selectable]
    listed: Object = {
        "description": f"{resource.kind}List is a list of {resource.kind}",
        "type": "object",
        "required": ["items"],
        "properties": {
            **_TYPE_META,
            "items": {
                "description": f"List of {resource.plural}. More info: "
                "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
                "type": "array",
                "items": {"$ref": f"#/definitions/{name}"},
            },
            "metadata": _reference("ListMeta", _METADATA_TEXT),
        },
        "x-kubernetes-group-version-kind": [{**gvk, "kind": f"{resource.kind}List"}],
    }
    return {name: kind, f"{name}List": listed}


_METADATA_TEXT: Final = (
    "Standard object's metadata. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
)


def _reference(kind: str, text: str) -> Object:
    return {"$ref": f"#/definitions/{META}{kind}", "description": text}


def plain(schema: Mapping[str, Any]) -> Object:
    """A schema without what v2 cannot say. What may be null or of several types has no type there."""
    out: Object = {}
    for key, value in schema.items():
        if key in _DROPPED:
            continue
        if key == "properties":
            value = {name: plain(one) for name, one in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
            value = plain(value)
        out[key] = value
    if schema.get("nullable"):
        for key in ("type", "items", "properties"):
            out.pop(key, None)
    return out
