"""What changed since the last look: Services and their EndpointSlices by Service.

Handlers only mark a Service; `take` gives the marked ones. Several changes of one Service before
a look are one. The objects stay in the informers' caches; slices are kept by Service here, since
a cache finds them by name only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tiphys.api.core.v1 import Service
from tiphys.api.discovery.v1 import EndpointSlice
from tiphys.proxy.model import ServiceKey
from tiphys.proxy.services import key_of_service, key_of_slice


class Tracker:
    """Fed by informers' handlers, all in one event loop. `on_change` is called at each mark."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._services: dict[ServiceKey, Service] = {}
        self._slices: dict[ServiceKey, dict[str, EndpointSlice]] = {}
        self._marked: set[ServiceKey] = set()

    @property
    def services(self) -> Mapping[ServiceKey, Service]:
        return self._services

    def slices(self, key: ServiceKey) -> Sequence[EndpointSlice]:
        """The slices of a Service."""
        return list(self._slices.get(key, {}).values())

    def put_service(self, service: Service) -> None:
        self._services[key_of_service(service)] = service
        self._mark(key_of_service(service))

    def drop_service(self, service: Service) -> None:
        self._services.pop(key_of_service(service), None)
        self._mark(key_of_service(service))

    def put_slice(self, piece: EndpointSlice) -> None:
        key = key_of_slice(piece)
        if key is not None:
            self._slices.setdefault(key, {})[piece.metadata.name] = piece
            self._mark(key)

    def update_slice(self, old: EndpointSlice, new: EndpointSlice) -> None:
        if key_of_slice(old) != key_of_slice(new):
            self.drop_slice(old)
        self.put_slice(new)

    def drop_slice(self, piece: EndpointSlice) -> None:
        key = key_of_slice(piece)
        if key is None or key not in self._slices:
            return
        self._slices[key].pop(piece.metadata.name, None)
        if not self._slices[key]:
            del self._slices[key]
        self._mark(key)

    def mark_all(self) -> None:
        """Look at every Service again: the node's own place changed."""
        self._marked.update(self._services)
        self._on_change()

    def take(self) -> set[ServiceKey]:
        """The Services marked since the last call."""
        marked, self._marked = self._marked, set()
        return marked

    def _mark(self, key: ServiceKey) -> None:
        self._marked.add(key)
        self._on_change()
