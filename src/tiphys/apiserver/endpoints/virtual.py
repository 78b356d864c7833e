"""Resources that are not stored: bindings, component statuses, and the review kinds (through `Services.extra`)."""

from __future__ import annotations

from typing import Final

from tiphys.api.table import Resource
from tiphys.apiserver.endpoints.actions import bind_pod
from tiphys.apiserver.endpoints.component_statuses import component_statuses
from tiphys.apiserver.endpoints.context import ApiRequest
from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.endpoints.routes import no_such_method, no_such_resource
from tiphys.apiserver.http.response import Answer
from tiphys.machinery.errors import StatusError, status_of

# Those of them that have columns; a review is one answer to one question.
VIRTUAL_TABLES: Final = frozenset({"componentstatuses"})


def check_virtual(resource: Resource, info: RequestInfo, method: str) -> None:
    """StatusError: 404 for a path that the resource does not have, 405 for a method."""
    if (
        bool(info.namespace) != resource.namespaced
        or info.subresource
        or (info.parts[1:] and "get" not in resource.verbs)
    ):
        raise no_such_resource()
    if info.verb not in resource.verbs or method == "HEAD":
        raise no_such_method()


async def serve_virtual(api: ApiRequest, resource: Resource) -> Answer:
    """Answer a request for a resource that is listed but not stored (see `check_virtual`)."""
    extra = api.services.extra.get((resource.group, resource.plural, ""))
    if extra is not None:
        answer: Answer = await extra(api, resource)
        return answer
    if resource.plural == "bindings":
        pods = api.services.resources.find("", "v1", "pods")
        assert pods is not None
        return await bind_pod(api, pods)
    if resource.plural == "componentstatuses":
        return component_statuses(api, resource, api.services.now())
    raise StatusError(status_of(501, "", f"{resource.plural} is not configured on this server"))
