"""Resources that are not stored: bindings, component statuses, and the review kinds (through `Services.extra`)."""

from __future__ import annotations

from tiphys.api.table import Resource
from tiphys.apiserver.endpoints.actions import bind_pod
from tiphys.apiserver.endpoints.context import ApiRequest
from tiphys.apiserver.endpoints.encoding import value_response
from tiphys.apiserver.endpoints.forms import list_metadata
from tiphys.apiserver.http.response import Answer
from tiphys.machinery.errors import StatusError, not_found, status_of


async def serve_virtual(api: ApiRequest, resource: Resource) -> Answer:
    """Answer a request for a resource that is listed but not stored. StatusError (405) for other verbs."""
    if api.info.verb not in resource.verbs or api.info.subresource:
        message = "the server does not allow this method on the requested resource"
        raise StatusError(status_of(405, "MethodNotAllowed", message) | {"details": {}, "code": 405})
    extra = api.services.extra.get((resource.group, resource.plural, ""))
    if extra is not None:
        answer: Answer = await extra(api, resource)
        return answer
    if resource.plural == "bindings":
        pods = api.services.resources.find("", "v1", "pods")
        assert pods is not None
        return await bind_pod(api, pods)
    if resource.plural == "componentstatuses":
        return _component_statuses(api, resource)
    raise StatusError(status_of(501, "", f"{resource.plural} is not configured on this server"))


def _component_statuses(api: ApiRequest, resource: Resource) -> Answer:
    """Deprecated since v1.19: the one component this server can vouch for is its store."""
    api.warnings.append("v1 ComponentStatus is deprecated in v1.19+")
    status = {
        "metadata": {"name": "etcd-0"},
        "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}],
    }
    if api.info.verb == "get":
        if api.info.name != "etcd-0":
            raise not_found(resource.group_resource, api.info.name)
        return value_response(200, {"kind": resource.kind, "apiVersion": "v1", **status}, api.wanted)
    metadata = list_metadata(api.services.cache.revision)
    value = {"kind": resource.list_kind, "apiVersion": "v1", "metadata": metadata, "items": [status]}
    return value_response(200, value, api.wanted)
