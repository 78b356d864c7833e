"""log: a line for every query, in CoreDNS' common format. https://coredns.io/plugins/log/"""

from __future__ import annotations

from dataclasses import dataclass

from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.dns.corefile import Directive
from tiphys.dns.message import RCODE_NAMES, TYPE_NAMES, Reply
from tiphys.dns.plugin import Next, Plugin, Request, Setup

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Log:
    """Logs after the answer is known."""

    clock: Clock

    async def serve(self, request: Request, following: Next) -> Reply:
        started = self.clock.monotonic()
        reply = await following(request)
        query = request.query
        log.info(
            '%s - %d "%s IN %s %s %d %s %d" %s %.9fs',
            request.client,
            query.identifier,
            TYPE_NAMES.get(query.type, str(query.type)),
            query.name,
            request.transport,
            len(query.question) + 12,
            "true" if query.dnssec_ok else "false",
            query.udp_size,
            RCODE_NAMES.get(reply.rcode, str(reply.rcode)),
            self.clock.monotonic() - started,
        )
        return reply


def build(directive: Directive, setup: Setup) -> Plugin:
    """From `log`."""
    return Log(setup.clock)
