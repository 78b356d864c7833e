"""The parts of gateway.networking.k8s.io's kinds that are read here; field names as in the API's reference."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from tiphys.api.base import Struct
from tiphys.api.meta.v1 import Condition, LabelSelector, ObjectMeta
from tiphys.client.endpoint import Endpoint, ListBody, Object, api_prefix

GROUP: Final = "gateway.networking.k8s.io"
T = TypeVar("T", bound=Object)


class GatewayClassSpec(Struct, frozen=True, kw_only=True):
    controller_name: str = ""


class Conditions(Struct, frozen=True, kw_only=True):
    conditions: tuple[Condition, ...] = ()


class GatewayClass(Struct, frozen=True, kw_only=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: GatewayClassSpec = GatewayClassSpec()
    status: Conditions = Conditions()


class ObjectReference(Struct, frozen=True, kw_only=True):
    group: str | None = None
    kind: str | None = None
    name: str = ""
    namespace: str | None = None


class ListenerTLS(Struct, frozen=True, kw_only=True):
    mode: str = "Terminate"
    certificate_refs: tuple[ObjectReference, ...] = ()


class RouteNamespaces(Struct, frozen=True, kw_only=True):
    from_: str = msgspec.field(default="Same", name="from")
    selector: LabelSelector | None = None


class RouteKind(Struct, frozen=True, kw_only=True):
    group: str | None = None
    kind: str = ""


class AllowedRoutes(Struct, frozen=True, kw_only=True):
    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: tuple[RouteKind, ...] = ()


class GatewayListener(Struct, frozen=True, kw_only=True):
    name: str = ""
    hostname: str | None = None
    port: int = 0
    protocol: str = ""
    tls: ListenerTLS | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewaySpec(Struct, frozen=True, kw_only=True):
    gateway_class_name: str = ""
    listeners: tuple[GatewayListener, ...] = ()


class ListenerStatus(Struct, frozen=True, kw_only=True):
    # Required in the CRD, also when empty.
    name: str
    supported_kinds: tuple[RouteKind, ...]
    attached_routes: int
    conditions: tuple[Condition, ...] = ()


class GatewayAddress(Struct, frozen=True, kw_only=True):
    type: str = "IPAddress"
    value: str = ""


class GatewayStatus(Struct, frozen=True, kw_only=True):
    addresses: tuple[GatewayAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()
    listeners: tuple[ListenerStatus, ...] = ()


class Gateway(Struct, frozen=True, kw_only=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: GatewaySpec = GatewaySpec()
    status: GatewayStatus = GatewayStatus()


class ParentReference(Struct, frozen=True, kw_only=True):
    group: str | None = None
    kind: str | None = None
    namespace: str | None = None
    name: str = ""
    section_name: str | None = None
    port: int | None = None


class PathMatch(Struct, frozen=True, kw_only=True):
    type: str = "PathPrefix"
    value: str = "/"


class FieldMatch(Struct, frozen=True, kw_only=True):
    type: str = "Exact"
    name: str = ""
    value: str = ""


class RouteMatch(Struct, frozen=True, kw_only=True):
    path: PathMatch = PathMatch()
    headers: tuple[FieldMatch, ...] = ()
    query_params: tuple[FieldMatch, ...] = ()
    method: str | None = None


class Header(Struct, frozen=True, kw_only=True):
    name: str = ""
    value: str = ""


class HeaderFilter(Struct, frozen=True, kw_only=True):
    set: tuple[Header, ...] = ()
    add: tuple[Header, ...] = ()
    remove: tuple[str, ...] = ()


class PathModifier(Struct, frozen=True, kw_only=True):
    type: str = ""
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class RedirectFilter(Struct, frozen=True, kw_only=True):
    scheme: str | None = None
    hostname: str | None = None
    path: PathModifier | None = None
    port: int | None = None
    status_code: int = 302


class RewriteFilter(Struct, frozen=True, kw_only=True):
    hostname: str | None = None
    path: PathModifier | None = None


class RouteFilter(Struct, frozen=True, kw_only=True):
    type: str = ""
    request_header_modifier: HeaderFilter | None = None
    response_header_modifier: HeaderFilter | None = None
    request_redirect: RedirectFilter | None = None
    url_rewrite: RewriteFilter | None = None


class BackendReference(Struct, frozen=True, kw_only=True):
    group: str | None = None
    kind: str | None = None
    name: str = ""
    namespace: str | None = None
    port: int | None = None
    weight: int = 1
    filters: tuple[RouteFilter, ...] = ()


class Timeouts(Struct, frozen=True, kw_only=True):
    request: str | None = None
    backend_request: str | None = None


class RouteRule(Struct, frozen=True, kw_only=True):
    matches: tuple[RouteMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendReference, ...] = ()
    timeouts: Timeouts = Timeouts()


class RouteSpec(Struct, frozen=True, kw_only=True):
    parent_refs: tuple[ParentReference, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[RouteRule, ...] = (RouteRule(),)


class RouteParentStatus(Struct, frozen=True, kw_only=True):
    parent_ref: ParentReference = ParentReference()
    controller_name: str = ""
    conditions: tuple[Condition, ...] = ()


class RouteStatus(Struct, frozen=True, kw_only=True):
    parents: tuple[RouteParentStatus, ...] = ()


class HTTPRoute(Struct, frozen=True, kw_only=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: RouteSpec = RouteSpec()
    status: RouteStatus = RouteStatus()


class GrantFrom(Struct, frozen=True, kw_only=True):
    group: str = ""
    kind: str = ""
    namespace: str = ""


class GrantTo(Struct, frozen=True, kw_only=True):
    group: str = ""
    kind: str = ""
    name: str | None = None


class GrantSpec(Struct, frozen=True, kw_only=True):
    from_: tuple[GrantFrom, ...] = msgspec.field(default=(), name="from")
    to: tuple[GrantTo, ...] = ()


class ReferenceGrant(Struct, frozen=True, kw_only=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: GrantSpec = GrantSpec()


def endpoint(kind: type[T], version: str, plural: str, *, namespaced: bool = True) -> Endpoint[T]:
    """Where a kind of the group lives on a server that has its CRD."""
    return Endpoint(
        prefix=api_prefix(GROUP, version),
        plural=plural,
        namespaced=namespaced,
        api_version=f"{GROUP}/{version}",
        kind=kind.__name__,
        type=kind,
        decoder=msgspec.json.Decoder(kind),
        list_decoder=msgspec.json.Decoder(ListBody[kind]),  # type: ignore[valid-type]  # a type at run time
    )


GATEWAY_CLASSES: Final = endpoint(GatewayClass, "v1", "gatewayclasses", namespaced=False)
GATEWAYS: Final = endpoint(Gateway, "v1", "gateways")
HTTP_ROUTES: Final = endpoint(HTTPRoute, "v1", "httproutes")
REFERENCE_GRANTS: Final = endpoint(ReferenceGrant, "v1beta1", "referencegrants")
