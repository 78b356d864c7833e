"""errors: logs what went wrong while a query was answered. https://coredns.io/plugins/errors/"""

from __future__ import annotations

from tiphys.base.log import get_logger
from tiphys.dns.corefile import Directive
from tiphys.dns.message import TYPE_NAMES, Reply
from tiphys.dns.plugin import Next, Plugin, Request, Setup

log = get_logger(__name__)


class Errors:
    """Sees every failure on its way to the server, which answers SERVFAIL."""

    async def serve(self, request: Request, following: Next) -> Reply:
        try:
            return await following(request)
        except Exception as error:
            kind = TYPE_NAMES.get(request.type, str(request.type))
            log.error("plugin/errors: 2 %s %s: %s", request.name, kind, error)
            raise


def build(directive: Directive, setup: Setup) -> Plugin:
    """From `errors`."""
    if directive.arguments:
        raise directive.error(f"wrong argument count or unexpected line ending after '{directive.arguments[0]}'")
    return Errors()
