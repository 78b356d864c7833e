"""The server's own metrics, under upstream's names.

https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

from typing import Final

from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.http.response import Answer, Response, StreamResponse
from tiphys.base.metrics import REGISTRY, CounterValue, HistogramValue, Registry

BUCKETS: Final = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60)
SIZE_BUCKETS: Final = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)


class RequestMetrics:
    """Counts and times requests."""

    def __init__(self, registry: Registry = REGISTRY) -> None:
        self._total = registry.counter(
            "apiserver_request_total",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, "
            "component, and HTTP response code.",
            ("verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"),
        )
        self._duration = registry.histogram(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, dry run value, group, version, resource, "
            "subresource, scope and component.",
            ("verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"),
            BUCKETS,
        )
        self._sizes = registry.histogram(
            "apiserver_response_sizes",
            "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and "
            "component.",
            ("verb", "group", "version", "resource", "subresource", "scope", "component"),
            SIZE_BUCKETS,
        )
        # Looking a metric up by its labels costs more than counting: the values are kept by what they depend on.
        self._known: dict[tuple[str, ...], tuple[CounterValue, HistogramValue, HistogramValue]] = {}

    def observe(self, info: RequestInfo, answer: Answer, seconds: float) -> None:
        """Count one answered request."""
        if not info.is_resource:
            return
        code = answer.status if isinstance(answer, Response | StreamResponse) else 101
        if code == 404 and not info.resource:
            return
        verb = info.verb.upper()
        scope = "resource" if info.name else "namespace" if info.namespace else "cluster"
        common = (info.api_group, info.api_version, info.resource, info.subresource, scope, "apiserver")
        key = (verb, str(code), *common)
        known = self._known.get(key)
        if known is None:
            if len(self._known) > 5000:  # somebody is probing: no labels without bound
                return
            known = self._known[key] = (
                self._total.labels(verb, "", *common, str(code)),
                self._duration.labels(verb, "", *common),
                self._sizes.labels(verb, *common),
            )
        total, duration, sizes = known
        total.inc()
        if not isinstance(answer, Response):
            return
        duration.observe(seconds)
        if verb in ("GET", "LIST"):
            sizes.observe(answer.length)
