"""loop: at start asks the server a name nobody has; if it comes back, forwarding goes in a circle.

https://coredns.io/plugins/loop/
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from tiphys.base.log import get_logger
from tiphys.dns.corefile import Directive
from tiphys.dns.message import HINFO, IN, RECURSION_DESIRED, Query, Reply, name_bytes
from tiphys.dns.plugin import Next, Plugin, Request, Setup

log = get_logger(__name__)

TOO_OFTEN: Final = 2


class LoopError(Exception):
    """The server asks itself; it must not run."""


@dataclass(slots=True)
class Loop:
    """Counts how often its own question arrives."""

    zone: str
    port: int
    name: str
    seen: int = 0

    async def serve(self, request: Request, following: Next) -> Reply:
        if request.type == HINFO and request.name == self.name:
            self.seen += 1
            if self.seen > TOO_OFTEN:
                return Reply()
        return await following(request)

    async def check(self, ask: Next) -> None:
        """Ask once. Raises LoopError when the question came back."""
        question = name_bytes(self.name) + HINFO.to_bytes(2, "big") + IN.to_bytes(2, "big")
        query = Query(0, RECURSION_DESIRED, self.name, HINFO, question)
        try:
            await ask(Request(query, "127.0.0.1", "udp", self.zone))
        except Exception as error:
            log.debug("plugin/loop: the question was not answered: %s", error)
        if self.seen > TOO_OFTEN:
            raise LoopError(
                f'plugin/loop: Loop ({self.name} -> :{self.port}) detected for zone "{self.zone}", '
                "see https://coredns.io/plugins/loop#troubleshooting."
            )


def build(directive: Directive, setup: Setup) -> Plugin:
    """From `loop`."""
    zone = setup.zones[0]
    name = f"{secrets.randbits(63)}.{secrets.randbits(63)}.{'' if zone == '.' else zone}"
    made = Loop(zone, setup.port, name)
    setup.checks.append(made.check)
    return made
