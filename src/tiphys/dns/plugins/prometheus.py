"""prometheus: metrics under CoreDNS' names, :9153/metrics. https://coredns.io/plugins/metrics/"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from tiphys.base import answers
from tiphys.base.clock import Clock
from tiphys.base.metrics import REGISTRY
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
    """Counts queries, answers and time."""

    server: str
    clock: Clock

    async def serve(self, request: Request, following: Next) -> Reply:
        started = self.clock.monotonic()
        family = "2" if ":" in request.client else "1"
        kind = TYPE_NAMES.get(request.type, "other")
        REQUESTS.labels(self.server, request.zone, "", request.transport, family, kind).inc()
        rcode = "SERVFAIL"
        try:
            reply = await following(request)
            rcode = RCODE_NAMES.get(reply.rcode, str(reply.rcode))
            return reply
        finally:
            RESPONSES.labels(self.server, request.zone, "", rcode, "").inc()
            DURATION.labels(self.server, request.zone, "").observe(self.clock.monotonic() - started)


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
