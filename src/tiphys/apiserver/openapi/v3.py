"""OpenAPI v3: the same document in the newer form, a part for each group and version."""

from __future__ import annotations

from typing import Any, Final

Object = dict[str, Any]

REF: Final = "#/components/schemas/"
INT_OR_STRING: Final = {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}
QUANTITY: Final = {"oneOf": [{"type": "string"}, {"type": "number"}]}
METHODS: Final = ("get", "put", "post", "delete", "patch", "head", "options")


def schema_v3(schema: Object) -> Object:
    """A schema object of v2 in v3's form."""
    if "$ref" in schema:
        target = REF + schema["$ref"].rpartition("/")[2]
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        if not rest:
            return {"$ref": target}
        return {**rest, "allOf": [{"$ref": target}]}
    out: Object = {}
    for key, value in schema.items():
        if key == "properties":
            value = {name: schema_v3(one) for name, one in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            value = schema_v3(value)
        out[key] = value
    return out


def definition_v3(name: str, schema: Object) -> Object:
    """A definition of v2 as a component of v3."""
    if name.endswith("util.intstr.IntOrString"):
        return {"description": schema.get("description", ""), **INT_OR_STRING}
    if name.endswith("api.resource.Quantity"):
        return {"description": schema.get("description", ""), **QUANTITY}
    return schema_v3(schema)


def _parameter(parameter: Object) -> Object:
    kept = {key: value for key, value in parameter.items() if key not in ("type", "uniqueItems")}
    return {**kept, "schema": {"type": parameter["type"], "uniqueItems": True}}


def _media(operation: Object, key: str) -> list[str]:
    """What an operation takes or gives; other servers' documents may leave it out."""
    return operation.get(key) or ["application/json"]


def _operation(operation: Object) -> Object:
    out: Object = {key: operation[key] for key in ("tags", "description", "operationId") if key in operation}
    parameters = operation.get("parameters") or []
    plain = [_parameter(one) for one in parameters if one["in"] != "body"]
    if plain:
        out["parameters"] = plain
    for one in parameters:
        if one["in"] == "body":
            out["requestBody"] = {
                "content": {media: {"schema": schema_v3(one["schema"])} for media in _media(operation, "consumes")},
                "required": one.get("required", False),
            }
    responses: Object = {}
    for code, response in operation["responses"].items():
        responses[code] = {"description": response["description"]}
        if "schema" in response:
            schema = schema_v3(response["schema"])
            responses[code]["content"] = {media: {"schema": schema} for media in _media(operation, "produces")}
    out["responses"] = responses
    return out | {key: value for key, value in operation.items() if key.startswith("x-")}


def path_v3(item: Object) -> Object:
    """A path item of v2 in v3's form."""
    out: Object = {}
    for key, value in item.items():
        if key == "parameters":
            out[key] = [_parameter(one) for one in value]
        elif key in METHODS:
            out[key] = _operation(value)
    return out


def document_v3(paths: dict[str, Object], definitions: dict[str, Object], version: str) -> Object:
    """The document of one group and version."""
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": {path: path_v3(item) for path, item in paths.items()},
        "components": {
            "schemas": {name: definition_v3(name, schema) for name, schema in definitions.items()},
            "securitySchemes": {
                "BearerToken": {
                    "type": "apiKey",
                    "description": "Bearer Token authentication",
                    "name": "authorization",
                    "in": "header",
                }
            },
        },
    }
