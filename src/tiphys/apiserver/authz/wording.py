"""What a refused request is told, in upstream's words."""

from __future__ import annotations

from tiphys.apiserver.authz.interface import Attributes
from tiphys.machinery.errors import StatusError, forbidden
from tiphys.machinery.meta import GroupResource


def forbidden_error(attributes: Attributes, reason: str = "") -> StatusError:
    """The 403 for a request that was not allowed; `reason` is the authorizer's, shown after a colon."""
    message = describe(attributes)
    if reason:
        message = f"{message}: {reason}"
    if not attributes.resource_request:
        return forbidden(GroupResource("", ""), "", message)
    return forbidden(GroupResource(attributes.api_group, attributes.resource), attributes.name, message)


def describe(attributes: Attributes) -> str:
    """`User "alice" cannot list resource "pods" in API group "" in the namespace "default"`."""
    user = f'User "{attributes.user.name}"'
    if not attributes.resource_request:
        return f'{user} cannot {attributes.verb} path "{attributes.path}"'
    resource = attributes.resource + (f"/{attributes.subresource}" if attributes.subresource else "")
    where = f'in the namespace "{attributes.namespace}"' if attributes.namespace else "at the cluster scope"
    return f'{user} cannot {attributes.verb} resource "{resource}" in API group "{attributes.api_group}" {where}'
