"""loadbalance: shuffles A and AAAA records in answers, so that clients spread.

https://coredns.io/plugins/loadbalance/ (policy round_robin, which is the default)
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tiphys.dns.corefile import Directive
from tiphys.dns.message import AAAA, A, Reply, answer_count, wire_facts
from tiphys.dns.plugin import Next, Plugin, Request, Setup


@dataclass(frozen=True, slots=True)
class LoadBalance:
    """CNAMEs stay first, as they have to."""

    random: random.Random

    async def serve(self, request: Request, following: Next) -> Reply:
        reply = await following(request)
        if reply.wire:
            shuffled = self._shuffled(reply.wire)
            return reply if shuffled is reply.wire else reply._replace(wire=shuffled)
        if len(reply.answers) > 1:
            addresses = [each for each in reply.answers if each.type in (A, AAAA)]
            self.random.shuffle(addresses)
            others = [each for each in reply.answers if each.type not in (A, AAAA)]
            return reply._replace(answers=others + addresses, encoded=None)
        return reply

    def _shuffled(self, wire: bytes) -> bytes:
        """Another server's answer with the addresses of one length dealt out anew."""
        if answer_count(wire) < 2:  # most are denials, at the end of a search list
            return wire
        places = wire_facts(wire).address_offsets
        if len(places) < 2 or len({length for _, length in places}) != 1:
            return wire
        values = [wire[at : at + length] for at, length in places]
        self.random.shuffle(values)
        changed = bytearray(wire)
        for (at, length), value in zip(places, values, strict=True):
            changed[at : at + length] = value
        return bytes(changed)


def build(directive: Directive, setup: Setup) -> Plugin:
    """From `loadbalance [round_robin]`."""
    if directive.arguments not in ((), ("round_robin",)):
        raise directive.error(f"unknown policy: {' '.join(directive.arguments)}")
    return LoadBalance(random.Random())
