"""Subresources of stored objects: the table of what is served how.

status, finalize, approval, ephemeralcontainers, resize    the whole object, other rules of the strategy
scale                                                      scale.py
binding, eviction, token                                   actions.py
log, exec, attach, portforward, proxy                      connect.py: bytes to and from a kubelet or an address
"""

from __future__ import annotations

from typing import Final

from tiphys.apiserver.endpoints.actions import bind_pod, evict_pod
from tiphys.apiserver.endpoints.context import CONNECTIONS, ApiRequest
from tiphys.apiserver.endpoints.forms import form_for
from tiphys.apiserver.endpoints.patch import patch_object
from tiphys.apiserver.endpoints.read import get_object
from tiphys.apiserver.endpoints.routes import no_such_method, no_such_resource
from tiphys.apiserver.endpoints.scale import serve_scale
from tiphys.apiserver.endpoints.write import update_object
from tiphys.apiserver.http.response import Answer
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.machinery.errors import StatusError, status_of

WHOLE_OBJECT: Final = frozenset({"status", "finalize", "approval", "ephemeralcontainers", "resize"})
CONNECT: Final = frozenset({"log", *CONNECTIONS})
METHODS: Final = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


async def serve_subresource(api: ApiRequest, served: ServedResource) -> Answer:
    """Answer a request for a subresource. StatusError: 404 for one that does not exist, 405 for a verb it has not."""
    name = api.info.subresource
    subresource = served.resource.subresources.get(name)
    if subresource is None or (len(api.info.parts) > 3 and name != "proxy"):
        raise no_such_resource()
    verb = METHODS.get(api.request.method, "")
    if verb not in subresource.verbs and not (name == "proxy" and verb == ""):
        raise no_such_method()
    extra = api.services.extra.get((served.resource.group, served.resource.plural, name))
    if extra is not None:
        answer: Answer = await extra(api, served)
        return answer
    if name in WHOLE_OBJECT:
        return await _whole_object(api, served, verb)
    if name == "scale":
        return await serve_scale(api, served, verb)
    if (served.resource.plural, name) == ("pods", "binding"):
        return await bind_pod(api, served)
    if (served.resource.plural, name) == ("pods", "eviction"):
        return await evict_pod(api, served)
    raise StatusError(status_of(501, "", f"{served.resource.plural}/{name} is not configured on this server"))


async def _whole_object(api: ApiRequest, served: ServedResource, verb: str) -> Answer:
    if verb == "get":
        form = form_for(served, api.wanted, api.parameter("includeObject"), api.services.now)
        info = api.info
        version = api.parameter("resourceVersion")
        return await get_object(served, api.services.cache, form, info.namespace, info.name, version)
    if verb == "update":
        return await update_object(api, served)
    return await patch_object(api, served)
