"""The aggregator's metrics, under upstream's names. https://kubernetes.io/docs/reference/instrumentation/metrics/"""

from __future__ import annotations

from tiphys.base.metrics import REGISTRY, Registry


class AvailabilityMetrics:
    """Which APIServices are unavailable, and how often and why they became so."""

    def __init__(self, registry: Registry = REGISTRY) -> None:
        self._unavailable = registry.gauge(
            "aggregator_unavailable_apiservice",
            "Gauge of APIServices which are marked as unavailable broken down by APIService name.",
            ("name",),
        )
        self._total = registry.counter(
            "aggregator_unavailable_apiservice_total",
            "Counter of APIServices which are marked as unavailable broken down by APIService name and reason.",
            ("name", "reason"),
        )

    def available(self, name: str, *, available: bool) -> None:
        """What an APIService is now."""
        self._unavailable.labels(name).set(0 if available else 1)

    def became_unavailable(self, name: str, reason: str) -> None:
        """An APIService that was available is not any more."""
        self._total.labels(name, reason).inc()

    def forget(self, name: str) -> None:
        """An APIService is gone."""
        self._unavailable.remove(name)
