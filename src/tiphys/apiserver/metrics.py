"""What is said of requests, under upstream's names.

https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.flowcontrol.gate import is_long_running
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Answer, Response, StreamResponse
from tiphys.apiserver.waits import take_waited
from tiphys.base.metrics import REGISTRY, CounterValue, GaugeValue, HistogramValue, Registry

BUCKETS: Final = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60)
SLI_BUCKETS: Final = BUCKETS[2:]
SIZE_BUCKETS: Final = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)
MOST: Final = 5000  # combinations of labels: somebody may be probing
LABELS: Final = ("group", "version", "resource", "subresource", "scope", "component")
# As requests are told apart in metrics: by method, where the verb says no more than it.
VERBS: Final = {"create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE"}
CONNECTS: Final = frozenset({"exec", "attach", "portforward", "proxy", "log"})
# Paths that are no resource and are counted: those anybody may make up are not.
PATHS: Final = frozenset({"/healthz", "/livez", "/readyz", "/metrics", "/metrics/slis"})
DRY, APPLY = 1, 2

Common = tuple[str, ...]
T = TypeVar("T")


class _Series:
    """What one kind of request counts into: looking a metric up by its labels costs more than counting."""

    __slots__ = ("common", "duration", "sizes", "total", "verb")

    def __init__(
        self,
        verb: str,
        common: Common,
        total: CounterValue,
        duration: HistogramValue,
        sizes: HistogramValue | None,
    ) -> None:
        self.verb = verb
        self.common = common
        self.total = total
        self.duration = duration
        self.sizes = sizes


class RequestMetrics:
    """Counts and times requests."""

    def __init__(self, registry: Registry = REGISTRY) -> None:
        self._total = registry.counter(
            "apiserver_request_total",
            "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, "
            "scope, component, and HTTP response code.",
            ("verb", "dry_run", *LABELS, "code"),
        )
        self._duration = registry.histogram(
            "apiserver_request_duration_seconds",
            "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, "
            "subresource, scope and component.",
            ("verb", "dry_run", *LABELS),
            BUCKETS,
        )
        self._sizes = registry.histogram(
            "apiserver_response_sizes",
            "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope "
            "and component.",
            ("verb", *LABELS),
            SIZE_BUCKETS,
        )
        for name in ("sli", "slo"):  # the second is the first's old name
            registry.computed(
                "histogram",
                f"apiserver_request_{name}_duration_seconds",
                "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue "
                "wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
                ("verb", *LABELS),
                self._sli,
            )
        self._lasting = registry.gauge(
            "apiserver_longrunning_requests",
            "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, "
            "resource, scope and component. Not all requests are tracked this way.",
            ("verb", *LABELS),
        )
        self._terminated = registry.counter(
            "apiserver_request_terminations_total",
            "[ALPHA] Number of requests which apiserver terminated in self-defense.",
            ("verb", *LABELS, "code"),
        )
        self._deprecated = registry.gauge(
            "apiserver_requested_deprecated_apis",
            "[STABLE] Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, "
            "subresource, and removed_release.",
            ("group", "version", "resource", "subresource", "removed_release"),
        )
        self._known: dict[tuple[object, ...], _Series] = {}
        # Of the few requests that waited for others: how long they took, and how long without that.
        self._waiting: dict[Common, tuple[HistogramValue, HistogramValue]] = {}

    def observe(self, request: Request, info: RequestInfo, answer: Answer, seconds: float) -> None:
        """Count one answered request."""
        waited = take_waited()
        series = self._series(request, info, answer)
        if series is None:
            return
        series.total.inc()
        if not isinstance(answer, Response):
            if is_long_running(info):
                self._count_lasting(answer, self._lasting.labels(series.verb, *series.common))
            return
        series.duration.observe(seconds)
        if series.sizes is not None:
            series.sizes.observe(answer.length)
        if waited:
            took, without = self._waiting.setdefault(
                (series.verb, *series.common), (HistogramValue(BUCKETS), HistogramValue(BUCKETS))
            )
            took.observe(seconds)
            without.observe(seconds - waited)

    def terminated(self, request: Request, info: RequestInfo, code: int) -> None:
        """The server has given a request up, to save itself: there are too many, or it took too long."""
        if info.is_resource and len(self._known) <= MOST:
            self._terminated.labels(_verb(info, _marks(request, info)), *_common(info), str(code)).inc()

    def deprecated(self, info: RequestInfo) -> None:
        """Somebody uses an API that is on its way out."""
        self._deprecated.labels(info.api_group, info.api_version, info.resource, info.subresource, "").set(1)

    def _series(self, request: Request, info: RequestInfo, answer: Answer) -> _Series | None:
        """What to count into; None for what is not counted."""
        code = answer.status if isinstance(answer, Response | StreamResponse) else 101
        marks = _marks(request, info)
        key: tuple[object, ...]
        if info.is_resource:
            if code == 404 and not info.resource:
                return None
            key = (
                info.verb,
                code,
                info.api_group,
                info.api_version,
                info.resource,
                info.subresource,
                not info.name,
                not info.namespace,
                marks,
            )
        elif info.path in PATHS:
            key = info.verb, code, info.path
        else:
            return None
        known = self._known.get(key)
        if known is None and len(self._known) <= MOST:
            known = self._known[key] = self._made(info, code, marks)
        return known

    def _made(self, info: RequestInfo, code: int, marks: int) -> _Series:
        verb, common, dry = _verb(info, marks), _common(info), "All" if marks & DRY else ""
        return _Series(
            verb,
            common,
            self._total.labels(verb, dry, *common, str(code)),
            self._duration.labels(verb, dry, *common),
            self._sizes.labels(verb, *common) if verb in ("GET", "LIST") else None,
        )

    def _count_lasting(self, answer: Answer, gauge: GaugeValue) -> None:
        """Have an answer that lasts counted while it does."""
        if not isinstance(answer, Response):
            answer.run = _counted(answer.run, gauge)  # type: ignore[assignment]

    def _sli(self) -> Iterator[tuple[Common, HistogramValue]]:
        """The durations again, those of requests that waited for others being shorter."""
        found: dict[Common, HistogramValue] = {}
        for labels, duration in self._duration.items():
            own = labels[0], *labels[2:]
            into = found.setdefault(own, HistogramValue(SLI_BUCKETS))
            _add(into, duration, 1)
            if not labels[1] and own in self._waiting:
                took, without = self._waiting[own]
                _add(into, took, -1)
                _add(into, without, 1)
        yield from sorted(found.items())


def _add(into: HistogramValue, other: HistogramValue, sign: int) -> None:
    """Add the counts of BUCKETS to those of SLI_BUCKETS, which begin later."""
    skipped = len(BUCKETS) - len(SLI_BUCKETS)
    for index, count in enumerate(other.counts):
        into.counts[max(0, index - skipped)] += sign * count
    into.total += sign * other.total


def _counted(run: Callable[[T], Awaitable[None]], gauge: GaugeValue) -> Callable[[T], Awaitable[None]]:
    async def counted(connection: T) -> None:
        gauge.inc()
        try:
            await run(connection)
        finally:
            gauge.dec()

    return counted


def _marks(request: Request, info: RequestInfo) -> int:
    """What else tells requests apart: whether nothing is to be stored, whether a patch is applied."""
    marks = DRY if request.raw_query and "dryRun=All" in request.raw_query else 0
    if info.verb == "patch" and "apply-patch" in request.headers.get("content-type", ""):
        marks |= APPLY
    return marks


def _verb(info: RequestInfo, marks: int) -> str:
    if info.subresource in CONNECTS:
        return "CONNECT"
    return "APPLY" if marks & APPLY else VERBS.get(info.verb) or info.verb.upper()


def _common(info: RequestInfo) -> Common:
    if not info.is_resource:
        return "", "", "", info.path, "", ""
    scope = "resource" if info.name or info.verb == "create" else "namespace" if info.namespace else "cluster"
    return info.api_group, info.api_version, info.resource, info.subresource, scope, "apiserver"
