"""What a request asks for, read from its method, path and query alone.

    GET /api/v1/namespaces/default/pods/web/log     get    ""    v1  ns default  pods  web  subresource log
    GET /apis/apps/v1/deployments?watch=1           watch  apps  v1  ns ""       deployments
    GET /healthz                                    get    a path that is no resource

The words are upstream's, because RBAC rules and audit policies are written in them
(https://kubernetes.io/docs/reference/access-authn-authz/authorization/#request-attributes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tiphys.machinery.selectors import FieldSelector

VERBS: Final = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
# What may follow /namespaces/NAME/ as a subresource of the namespace itself rather than a resource in it.
NAMESPACE_SUBRESOURCES: Final = frozenset({"status", "finalize"})
# Paths of these are passed on as they are: everything behind the subresource belongs to the target.


@dataclass(slots=True)
class RequestInfo:
    """See the module. `parts` are the path segments from the resource on; empty strings mean absent."""

    is_resource: bool
    path: str
    verb: str
    api_prefix: str = ""
    api_group: str = ""
    api_version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    parts: tuple[str, ...] = ()


def is_true(query: Mapping[str, list[str]], name: str) -> bool:
    """A boolean query parameter: present and not `false` or `0` ("?watch" alone counts as true)."""
    values = query.get(name)
    return values is not None and truth(values[0])


def truth(text: str) -> bool:
    """The value of a boolean query parameter: whatever does not say that it is false is true."""
    return text != "0" and text.lower() != "false"


def parse_request_info(method: str, path: str, query: Mapping[str, list[str]]) -> RequestInfo:
    """Read a request. Never fails: what is no resource path is a plain path with the method as its verb."""
    info = RequestInfo(False, path, method.lower())
    segments = [segment for segment in path.split("/") if segment]
    if len(segments) < 3 or segments[0] not in ("api", "apis"):
        return info
    info.api_prefix = segments[0]
    rest = segments[1:]
    if info.api_prefix == "apis":
        if len(rest) < 3:
            return info
        info.api_group = rest[0]
        rest = rest[1:]
    info.is_resource = True
    info.api_version = rest[0]
    rest = rest[1:]
    info.verb = VERBS.get(method, "")
    if rest[0] in ("watch", "proxy") and len(rest) > 1:  # /api/v1/watch/…: deprecated, still served
        info.verb = rest[0]
        rest = rest[1:]
    _read_resource(info, rest)
    if not info.name and info.verb == "get":
        info.verb = "watch" if is_true(query, "watch") else "list"
        info.name = _selected_name(query)
    elif info.verb == "watch" and not info.name:
        info.name = _selected_name(query)
    elif not info.name and info.verb == "delete":
        info.verb = "deletecollection"
    return info


def _read_resource(info: RequestInfo, rest: list[str]) -> None:
    if rest[0] == "namespaces":
        if len(rest) > 1:
            info.namespace = rest[1]
            if len(rest) > 2 and rest[2] not in NAMESPACE_SUBRESOURCES:
                rest = rest[2:]
    else:
        info.namespace = ""
    info.parts = tuple(rest)
    info.resource = rest[0]
    if len(rest) > 1:
        info.name = rest[1]
    if len(rest) > 2:
        info.subresource = rest[2]


def _selected_name(query: Mapping[str, list[str]]) -> str:
    """The name a field selector pins, so that rules with resourceNames apply to such lists and watches."""
    selectors = query.get("fieldSelector")
    if not selectors or "metadata.name" not in selectors[0]:
        return ""
    try:
        return FieldSelector.parse(selectors[0]).exact("metadata.name") or ""
    except ValueError:
        return ""
