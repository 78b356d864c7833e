"""What the endpoints share: the server's parts, and one request on its way through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tiphys.apiserver.admission.interface import AdmissionAttributes, AdmissionChain, Operation
from tiphys.apiserver.authz.interface import Authorizer
from tiphys.apiserver.endpoints.negotiation import (
    DEFAULT,
    JSON,
    MEDIA_TYPES,
    NO_COLUMNS,
    STREAM_TYPES,
    TABLE,
    TRANSFORMS,
    YAML,
    Wanted,
    check_offered,
    negotiate,
    pretty_by_default,
)
from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.registry.resources import CacheReader, ResourceMap, ServedResource
from tiphys.apiserver.registry.strategy import Object, RequestContext
from tiphys.apiserver.watchcache import WatchCache
from tiphys.machinery.errors import bad_request
from tiphys.machinery.field import quote
from tiphys.machinery.meta import GroupVersionKind, GroupVersionResource

TEXT: Final = "text/plain"
INCLUDED: Final = frozenset({"", "None", "Metadata", "Object"})
# Subresources that are connections to something else.
CONNECTIONS: Final = frozenset({"exec", "attach", "portforward", "proxy"})


@dataclass(slots=True)
class Services:
    """The parts of the server an endpoint may use."""

    resources: ResourceMap
    cache: WatchCache
    admission: AdmissionChain
    authorizer: Authorizer
    now: Callable[[], datetime]
    reader: CacheReader
    # Handlers of subresources that need more than the registry, by (group, resource, subresource): see subresources.py.
    extra: Mapping[tuple[str, str, str], Any] = field(default_factory=dict)


class ApiRequest:
    """One request for a resource: what was sent, what it means, and what it collects on the way."""

    __slots__ = ("emptied", "info", "request", "services", "wanted", "warnings")

    def __init__(
        self, services: Services, request: Request, info: RequestInfo, *, tables: bool = True, custom: bool = False
    ) -> None:
        """StatusError (406) when the Accept header cannot be served.

        `tables`: the answer can be shown as one; `custom`: of a custom resource, which has no protobuf.
        """
        self.services = services
        self.request = request
        self.info = info
        self.warnings = request.warnings
        # Lists that the body says are empty (see BodyDecoder.emptied).
        self.emptied: list[tuple[str, ...]] = []
        self.wanted = self._negotiate(tables, custom)

    def _negotiate(self, tables: bool, custom: bool) -> Wanted:
        headers = self.request.headers
        accept = headers.get("accept", "")
        log = self.info.subresource == "log"
        if self.info.subresource in CONNECTIONS:
            return DEFAULT  # what answers is not this server
        if not custom:
            offered = (TEXT, *MEDIA_TYPES) if log else MEDIA_TYPES
            check_offered(accept, (*offered, *STREAM_TYPES) if self.info.verb in ("list", "watch") else offered)
        wanted = negotiate(
            accept,
            transforms=TRANSFORMS if tables and not log else NO_COLUMNS,
            media_types=(JSON, YAML) if custom else MEDIA_TYPES,
        )
        if wanted.transform == TABLE:
            _check_included(self.parameter("includeObject"))
        pretty = self.request.parameter("pretty") if self.request.raw_query else ""
        if pretty_by_default(headers.get("user-agent", ""), pretty) or (wanted.pretty and not pretty):
            return Wanted(wanted.media_type, wanted.transform, wanted.meta_version, True)
        return wanted

    @property
    def query(self) -> Mapping[str, list[str]]:
        """Query parameters."""
        return self.request.query

    def parameter(self, name: str) -> str:
        """The first value of a query parameter, "" without one."""
        return self.request.parameter(name) if self.request.raw_query else ""

    @property
    def dry_run(self) -> bool:
        """`?dryRun=All`; other values have been refused before."""
        return bool(self.parameter("dryRun"))

    @property
    def field_manager(self) -> str:
        """`?fieldManager=`, else the User-Agent up to its first slash."""
        manager = self.parameter("fieldManager")
        if manager:
            return manager
        agent = self.request.headers.get("user-agent", "").partition("/")[0]
        if not agent.isprintable():
            agent = "".join(char for char in agent if char.isprintable())
        return agent[:128] or "unknown"

    def context(self, *, name: str | None = None, subresource: str | None = None) -> RequestContext:
        """The strategy's view of this request."""
        return RequestContext(
            user=self.request.user,
            now=self.services.now(),
            reader=self.services.reader,
            namespace=self.info.namespace,
            name=self.info.name if name is None else name,
            subresource=self.info.subresource if subresource is None else subresource,
            dry_run=self.dry_run,
            field_manager=self.field_manager,
            warnings=self.warnings,
        )


class RequestAdmission:
    """Admission bound to one write: the registry asks `validate`, the endpoint `mutate`."""

    def __init__(
        self,
        api: ApiRequest,
        served: ServedResource,
        operation: Operation,
        options: Object | None = None,
        *,
        subresource: str | None = None,
        kind: GroupVersionKind | None = None,
    ) -> None:
        self._chain = api.services.admission
        self._api = api
        self._served = served
        self._operation = operation
        self._options = options or {}
        self._subresource = api.info.subresource if subresource is None else subresource
        self._kind = kind or served.store.resource.gvk
        self._name = api.info.name

    def _attributes(self, new: Object | None, old: Object | None) -> AdmissionAttributes:
        info, resource = self._api.info, self._served.store.resource
        name = self._name
        if not name and new is not None:
            name = new.get("metadata", {}).get("name", "")
        if not name and old is not None:
            name = old["metadata"].get("name", "")
        audit = self._api.request.audit
        return AdmissionAttributes(
            operation=self._operation,
            kind=self._kind,
            resource=GroupVersionResource(resource.group, resource.version, resource.plural),
            subresource=self._subresource,
            namespace=info.namespace,
            name=name,
            object=new,
            old_object=old,
            user=self._api.request.user,
            dry_run=self._api.dry_run,
            options=self._options,
            warnings=self._api.warnings,
            annotations={} if audit is None else audit.annotations,
        )

    async def mutate(self, new: Object | None, old: Object | None) -> None:
        """Run the mutating half on `new` in place."""
        if not self._chain.empty:
            await self._chain.admit(self._attributes(new, old))

    async def validate(self, new: Object | None, old: Object | None) -> None:
        """Run the validating half."""
        if not self._chain.empty:
            await self._chain.validate(self._attributes(new, old))


def _check_included(include: str) -> None:
    """What a table's rows carry. StatusError (400)."""
    if include not in INCLUDED:
        problem = f"includeObject: Invalid value: {quote(include)}: must be 'Metadata', 'Object', 'None', or empty"
        raise bad_request(f"Unable to convert to Table as requested: {problem}")
