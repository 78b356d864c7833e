"""prometheus: metrics under CoreDNS' names, :9153/metrics. https://coredns.io/plugins/metrics/"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from tiphys.base import answers
from tiphys.base.clock import Clock
from tiphys.base.metrics import REGISTRY, CounterValue, HistogramValue
from tiphys.dns.corefile import Directive
from tiphys.dns.message import RCODE_NAMES, TYPE_NAMES, Reply
from tiphys.dns.plugin import Next, Plugin, Request, Setup

DEFAULT: Final = "localhost:9153"
REQUESTS: Final = REGISTRY.counter(
    "coredns_dns_requests_total",
    "Counter of DNS requests made per zone, protocol and family.",
    ("server", "zone", "view", "proto", "family", "type"),
)
RESPONSES: Final = REGISTRY.counter(
    "coredns_dns_responses_total",
    "Counter of response status codes.",
    ("server", "zone", "view", "rcode", "plugin"),
)
DURATION: Final = REGISTRY.histogram(
    "coredns_dns_request_duration_seconds",
    "Histogram of the time (in seconds) each request took per zone.",
    ("server", "zone", "view"),
    buckets=tuple(0.00025 * 2**power for power in range(16)),
)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Counts queries, answers and time. The series are kept bound: six labels cost more than what they count."""

    server: str
    clock: Clock
    requests: dict[tuple[str, str, str, str], CounterValue] = field(default_factory=dict)
    responses: dict[tuple[str, str], tuple[CounterValue, HistogramValue]] = field(default_factory=dict)

    async def serve(self, request: Request, following: Next) -> Reply:
        started = self.clock.monotonic()
        family = "2" if ":" in request.client else "1"
        kind = TYPE_NAMES.get(request.query.type, "other")
        came = (request.zone, request.transport, family, kind)
        (self.requests.get(came) or self._bind_request(came)).inc()
        rcode = "SERVFAIL"
        try:
            reply = await following(request)
            rcode = RCODE_NAMES.get(reply.rcode) or str(reply.rcode)
            return reply
        finally:
            went = (request.zone, rcode)
            responses, duration = self.responses.get(went) or self._bind_response(went)
            responses.inc()
            duration.observe(self.clock.monotonic() - started)

    def _bind_request(self, came: tuple[str, str, str, str]) -> CounterValue:
        zone, transport, family, kind = came
        bound = self.requests[came] = REQUESTS.labels(self.server, zone, "", transport, family, kind)
        return bound

    def _bind_response(self, went: tuple[str, str]) -> tuple[CounterValue, HistogramValue]:
        zone, rcode = went
        bound = self.responses[went] = (
            RESPONSES.labels(self.server, zone, "", rcode, ""),
            DURATION.labels(self.server, zone, ""),
        )
        return bound


def build(directive: Directive, setup: Setup) -> Plugin:
    """From `prometheus [ADDRESS]`."""
    host, _, port = (directive.arguments[0] if directive.arguments else DEFAULT).rpartition(":")

    async def run() -> None:
        def answer(path: str) -> tuple[int, str, bytes] | None:
            return (200, answers.METRICS, REGISTRY.expose()) if path == "/metrics" else None

        server = await answers.serve(host or "", int(port), answer)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    setup.background[f"prometheus {host}:{port}"] = run
    return Prometheus(f"dns://:{setup.port}", setup.clock)
