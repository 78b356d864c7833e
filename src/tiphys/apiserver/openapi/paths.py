"""Paths: the operations on a resource, as the official OpenAPI v2 document lists them.

Operation ids are read by client generators: `listCoreV1NamespacedPod`, `replaceAppsV1NamespacedDeploymentStatus`.
"""

from __future__ import annotations

from typing import Any, Final

from tiphys.api.table import Resource, Subresource

Object = dict[str, Any]

NAMES = dict[tuple[str, str, str], str]

JSON_TYPES: Final = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"]
STREAM_TYPES: Final = [
    *JSON_TYPES,
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
]
PATCH_TYPES: Final = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
]
CUSTOM_TYPES: Final = JSON_TYPES[:2]
CUSTOM_PATCH_TYPES: Final = [one for one in PATCH_TYPES if "strategic" not in one]
META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."


def _query(name: str, kind: str, description: str) -> Object:
    return {"name": name, "in": "query", "description": description, "type": kind, "uniqueItems": True}


PRETTY: Final = _query("pretty", "string", "If 'true', then the output is pretty printed.")
DRY_RUN: Final = _query(
    "dryRun",
    "string",
    "When present, indicates that modifications should not be persisted. All: all dry run stages will be processed",
)
MANAGER: Final = _query(
    "fieldManager", "string", "fieldManager is a name associated with the actor or entity that is making these changes."
)
VALIDATION: Final = _query(
    "fieldValidation",
    "string",
    "fieldValidation instructs the server on how to handle unknown or duplicate fields: Ignore, Warn or Strict.",
)
FORCE: Final = _query(
    "force",
    "boolean",
    'Force is going to "force" Apply requests: it re-acquires conflicting fields owned by other people.',
)
LIST_PARAMETERS: Final = [
    _query("allowWatchBookmarks", "boolean", 'allowWatchBookmarks requests watch events with type "BOOKMARK".'),
    _query("continue", "string", "The continue option should be set when retrieving more results from the server."),
    _query("fieldSelector", "string", "A selector to restrict the list of returned objects by their fields."),
    _query("labelSelector", "string", "A selector to restrict the list of returned objects by their labels."),
    _query("limit", "integer", "limit is a maximum number of responses to return for a list call."),
    _query(
        "resourceVersion",
        "string",
        "resourceVersion sets a constraint on what resource versions a request may be served from.",
    ),
    _query(
        "resourceVersionMatch",
        "string",
        "resourceVersionMatch determines how resourceVersion is applied to list calls.",
    ),
    _query("sendInitialEvents", "boolean", "sendInitialEvents=true may be set together with watch=true."),
    _query("timeoutSeconds", "integer", "Timeout for the list/watch call."),
    _query("watch", "boolean", "Watch for changes to the described resources and return them as a stream."),
]
DELETE_PARAMETERS: Final = [
    DRY_RUN,
    _query("gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted."),
    _query("orphanDependents", "boolean", "Deprecated: please use the PropagationPolicy."),
    _query("propagationPolicy", "string", "Whether and how garbage collection will be performed."),
]
WRITE_PARAMETERS: Final = [DRY_RUN, MANAGER, VALIDATION]


def _path_parameter(name: str, description: str) -> Object:
    return {
        "name": name,
        "in": "path",
        "description": description,
        "required": True,
        "type": "string",
        "uniqueItems": True,
    }


NAME: Final = _path_parameter("name", "name of the object")
NAMESPACE: Final = _path_parameter("namespace", "object name and auth scope, such as for teams and projects")


def group_name(group: str) -> str:
    """ "rbac.authorization.k8s.io" → "RbacAuthorization"."""
    if not group:
        return "Core"
    return "".join(part[:1].upper() + part[1:] for part in group.removesuffix(".k8s.io").split("."))


class PathBuilder:
    """Builds the operations of one group and version."""

    def __init__(self, group: str, version: str, names: NAMES, *, custom: bool = False) -> None:
        """`names`: definitions by (group, version, kind). `custom`: of custom resources, which know fewer forms."""
        self._json_types = CUSTOM_TYPES if custom else JSON_TYPES
        self._stream_types = CUSTOM_TYPES if custom else STREAM_TYPES
        self._patch_types = CUSTOM_PATCH_TYPES if custom else PATCH_TYPES
        self._group = group
        self._version = version
        self._names = names
        self._prefix = f"/apis/{group}/{version}" if group else f"/api/{version}"
        self._tag = f"{group_name(group)[:1].lower()}{group_name(group)[1:]}_{version}"
        self._id = group_name(group) + version[:1].upper() + version[1:]

    def paths(self, resources: list[Resource]) -> dict[str, Object]:
        """Every path of the group and version."""
        found: dict[str, Object] = {f"{self._prefix}/": {"get": self._discovery()}}
        for resource in resources:
            self._resource(found, resource)
        return found

    def _discovery(self) -> Object:
        return self._operation(
            "get", f"get{self._id}APIResources", "get available resources", META + "APIResourceList", JSON_TYPES
        )

    # --- operations -------------------------------------------------------------------------------------------------
    def _ref(self, group: str, version: str, kind: str) -> str:
        return self._names.get((group, version, kind), "")

    def _operation(self, method: str, name: str, description: str, answer: str, produces: list[str]) -> Object:
        schema = {"schema": {"$ref": f"#/definitions/{answer}"}} if answer else {"schema": {"type": "string"}}
        responses: Object = {"200": {"description": "OK", **schema}}
        if method == "post":
            responses["201"] = {"description": "Created", **schema}
            responses["202"] = {"description": "Accepted", **schema}
        elif method in ("put", "patch"):
            responses["201"] = {"description": "Created", **schema}
        elif method == "delete":
            responses["202"] = {"description": "Accepted", **schema}
        responses["401"] = {"description": "Unauthorized"}
        return {
            "description": description,
            "consumes": ["*/*"],
            "produces": list(produces),
            "schemes": ["https"],
            "tags": [self._tag],
            "operationId": name,
            "responses": responses,
        }

    def _verb(
        self,
        method: str,
        action: str,
        name: str,
        text: str,
        answer: str,
        kind: Object,
        parameters: list[Object],
        body: str = "",
    ) -> Object:
        operation = self._operation(
            method, name, text, answer, self._stream_types if action == "list" else self._json_types
        )
        given = list(parameters)
        if body:
            given.insert(
                0,
                {
                    "name": "body",
                    "in": "body",
                    "required": action != "delete",
                    "schema": {"$ref": f"#/definitions/{body}"},
                },
            )
        if given:
            operation["parameters"] = given
        if action == "patch":
            operation["consumes"] = list(self._patch_types)
        operation["x-kubernetes-action"] = action
        operation["x-kubernetes-group-version-kind"] = kind
        return operation

    def _resource(self, paths: dict[str, Object], resource: Resource) -> None:
        kind = {"group": self._group, "version": self._version, "kind": resource.kind}
        answer = self._ref(self._group, self._version, resource.kind)
        list_answer = self._ref(self._group, self._version, resource.list_kind) or answer
        scope = "Namespaced" if resource.namespaced else ""
        where = "/namespaces/{namespace}" if resource.namespaced else ""
        base = f"{self._prefix}{where}/{resource.plural}"
        common = [NAMESPACE, PRETTY] if resource.namespaced else [PRETTY]
        collection: Object = {"parameters": common}
        single: Object = {"parameters": [NAME, *common]}
        plain = f"{scope}{resource.kind}"
        for verb in resource.verbs:
            match verb:
                case "create":
                    collection["post"] = self._verb(
                        "post",
                        "post",
                        f"create{self._id}{plain}",
                        f"create {resource.kind}",
                        answer,
                        kind,
                        WRITE_PARAMETERS,
                        answer,
                    )
                case "list":
                    collection["get"] = self._verb(
                        "get",
                        "list",
                        f"list{self._id}{plain}",
                        f"list or watch objects of kind {resource.kind}",
                        list_answer,
                        kind,
                        LIST_PARAMETERS,
                    )
                case "deletecollection":
                    collection["delete"] = self._verb(
                        "delete",
                        "deletecollection",
                        f"delete{self._id}Collection{plain}",
                        f"delete collection of {resource.kind}",
                        META + "Status",
                        kind,
                        [*LIST_PARAMETERS, *DELETE_PARAMETERS],
                        META + "DeleteOptions",
                    )
                case "get":
                    single["get"] = self._verb(
                        "get", "get", f"read{self._id}{plain}", f"read the specified {resource.kind}", answer, kind, []
                    )
                case "update":
                    single["put"] = self._verb(
                        "put",
                        "put",
                        f"replace{self._id}{plain}",
                        f"replace the specified {resource.kind}",
                        answer,
                        kind,
                        WRITE_PARAMETERS,
                        answer,
                    )
                case "patch":
                    single["patch"] = self._verb(
                        "patch",
                        "patch",
                        f"patch{self._id}{plain}",
                        f"partially update the specified {resource.kind}",
                        answer,
                        kind,
                        [*WRITE_PARAMETERS, FORCE],
                        META + "Patch",
                    )
                case "delete":
                    single["delete"] = self._verb(
                        "delete",
                        "delete",
                        f"delete{self._id}{plain}",
                        f"delete {'an' if resource.kind[0] in 'AEIOU' else 'a'} {resource.kind}",
                        META + "Status",
                        kind,
                        DELETE_PARAMETERS,
                        META + "DeleteOptions",
                    )
        if len(collection) > 1:
            paths[base] = collection
        if len(single) > 1:
            paths[f"{base}/{{name}}"] = single
        for name, subresource in resource.subresources.items():
            path, item = f"{base}/{{name}}/{name}", self._subresource(resource, name, subresource)
            item["parameters"] = [NAME, *common]
            paths[path] = item
        if resource.namespaced and "list" in resource.verbs:
            everywhere = self._verb(
                "get",
                "list",
                f"list{self._id}{resource.kind}ForAllNamespaces",
                f"list or watch objects of kind {resource.kind}",
                list_answer,
                kind,
                [],
            )
            paths[f"{self._prefix}/{resource.plural}"] = {"get": everywhere, "parameters": [*LIST_PARAMETERS, PRETTY]}

    def _subresource(self, resource: Resource, name: str, subresource: Subresource) -> Object:
        group = subresource.group or self._group
        version = subresource.version or self._version
        kind = {"group": group, "version": version, "kind": subresource.kind}
        answer = self._ref(group, version, subresource.kind)
        suffix = f"{'Namespaced' if resource.namespaced else ''}{resource.kind}{name[:1].upper()}{name[1:]}"
        connect = subresource.kind.endswith("Options")
        methods = {"get": "read", "create": "create", "update": "replace", "patch": "patch", "delete": "delete"}
        item: Object = {}
        for verb in subresource.verbs:
            method = {"create": "post", "update": "put"}.get(verb, verb)
            prefix = f"connect{method.capitalize()}" if connect else methods[verb]
            text = f"{prefix} {name} of the specified {resource.kind}"
            parameters = [] if verb == "get" or connect else WRITE_PARAMETERS
            body = "" if verb == "get" or connect else META + "Patch" if verb == "patch" else answer
            action = "connect" if connect else {"create": "post", "update": "put"}.get(verb, verb)
            item[method] = self._verb(
                method, action, f"{prefix}{self._id}{suffix}", text, "" if connect else answer, kind, parameters, body
            )
        return item
