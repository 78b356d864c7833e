"""What watches send, under upstream's names. https://kubernetes.io/docs/reference/instrumentation/metrics/"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from typing import Final, Self

from tiphys.base.metrics import REGISTRY, CounterValue, HistogramValue

_BUCKETS: Final = tuple(1024.0 * 2**power for power in range(8))
_LABELS: Final = ("group", "version", "resource")
_EVENTS: Final = REGISTRY.counter(
    "apiserver_watch_events_total", "[ALPHA] Number of events sent in watch clients", _LABELS
)
_SIZES: Final = REGISTRY.histogram(
    "apiserver_watch_events_sizes", "[ALPHA] Watch event size distribution in bytes", _LABELS, _BUCKETS
)
FRAMING: Final = 7  # bytes around an event of some hundred bytes: three digits and two line ends


class WatchTally:
    """Counts the events of one version of a resource."""

    __slots__ = ("_events", "_sizes")

    def __init__(self, events: CounterValue, sizes: HistogramValue) -> None:
        self._events = events
        self._sizes = sizes

    @classmethod
    @cache
    def of(cls, group: str, version: str, resource: str) -> Self:
        """The tally of a version of a resource."""
        return cls(_EVENTS.labels(group, version, resource), _SIZES.labels(group, version, resource))

    def sent(self, data: bytes, times: int = 1) -> None:
        """The framed bytes of an event went to so many."""
        size = len(data) - FRAMING
        sizes = self._sizes
        self._events.value += times
        sizes.counts[bisect_left(_BUCKETS, size)] += times
        sizes.total += size * times
