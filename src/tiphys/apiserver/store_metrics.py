"""What the store and the watch cache hold and do, under upstream's names.

Nearly all of it is there anyway and read at scrape time; only requests to the store are timed.
https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tiphys.apiserver.watchcache import Kind, WatchCache
from tiphys.base.metrics import REGISTRY, HistogramValue
from tiphys.store import Store

_BUCKETS: Final = (
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60),
)
_SECONDS: Final = REGISTRY.histogram(
    "etcd_request_duration_seconds",
    "[ALPHA] Etcd request latency in seconds for each operation and object type.",
    ("operation", "group", "resource"),
    _BUCKETS,
)
CLUSTER: Final = "etcd-0"  # upstream's name of its first, here the only one
_KIND: Final = ("group", "resource")
# Of each kind: name, type, help and value.
_KINDS: Final[tuple[tuple[str, str, str, Callable[[Kind], float]], ...]] = (
    (
        "apiserver_resource_objects",
        "gauge",
        (
            "[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, "
            "the value will be -1."
        ),
        lambda kind: len(kind.cache.entries) + len(kind.cache.unreadable),
    ),
    (
        "apiserver_watch_cache_events_received_total",
        "counter",
        "[ALPHA] Counter of events received in watch cache broken by resource type.",
        lambda kind: kind.received,
    ),
    (
        "apiserver_watch_cache_events_dispatched_total",
        "counter",
        "[ALPHA] Counter of events dispatched in watch cache broken by resource type.",
        lambda kind: kind.watchers.dispatched,
    ),
    (
        "apiserver_watch_cache_initializations_total",
        "counter",
        "[ALPHA] Counter of watch cache initializations broken by resource type.",
        lambda kind: kind.initializations,
    ),
    (
        "watch_cache_capacity",
        "gauge",
        "[ALPHA] Total capacity of watch cache broken by resource type.",
        lambda kind: kind.cache.capacity,
    ),
)


def store_time(operation: str, group: str, resource: str) -> HistogramValue:
    """Where the seconds of requests to the store are counted, by what is done to objects of what."""
    return _SECONDS.labels(operation, group, resource)


def _requests() -> Iterator[tuple[tuple[str, ...], float]]:
    for labels, seconds in sorted(_SECONDS.items()):
        yield labels, sum(seconds.counts)


REGISTRY.computed(
    "counter",
    "etcd_requests_total",
    "[ALPHA] Etcd request counts for each operation and object type.",
    ("operation", "group", "resource"),
    _requests,
)


class StoreMetrics:
    """The families of one server's cache and store; `close` takes them away."""

    def __init__(self, cache: WatchCache, store: Store) -> None:
        self._cache = cache
        self._store = store
        self._size = -1
        self._removers = [
            REGISTRY.computed(kind, name, text, _KIND, self._of_kinds(value)) for name, kind, text, value in _KINDS
        ]
        self._removers.append(
            REGISTRY.computed(
                "gauge",
                "apiserver_storage_objects",
                "[STABLE] [DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at "
                "the time of last check split by kind. In case of a fetching error, the value will be -1.",
                ("resource",),
                self._objects,
            )
        )
        self._removers.append(
            REGISTRY.computed(
                "gauge",
                "apiserver_storage_size_bytes",
                "[STABLE] Size of the storage database file physically allocated in bytes.",
                ("storage_cluster_id",),
                lambda: [((CLUSTER,), self._size)],
            )
        )
        self._removers.append(
            REGISTRY.computed(
                "gauge",
                "apiserver_watch_cache_resource_version",
                "[ALPHA] Current resource version of watch cache broken by resource type. This is truncated to the 15 "
                "least significant digits.",
                _KIND,
                self._of_kinds(lambda _: self._cache.revision % 10**15),
            )
        )

    async def refresh(self) -> None:
        """Ask what only the store knows; called before the families are read."""
        try:
            self._size = (await self._store.status()).size
        except Exception:  # whatever is wrong with the store: the other families are needed then most of all
            self._size = -1

    def close(self) -> None:
        """The server ends."""
        for remove in self._removers:
            remove()

    def _of_kinds(self, value: Callable[[Kind], float]) -> Callable[[], Iterator[tuple[tuple[str, ...], float]]]:
        def series() -> Iterator[tuple[tuple[str, ...], float]]:
            for group, resource, kind in self._cache.kinds():
                yield (group, resource), value(kind)

        return series

    def _objects(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for group, resource, kind in self._cache.kinds():
            count = len(kind.cache.entries) + len(kind.cache.unreadable)
            yield (f"{resource}.{group}" if group else resource,), count
