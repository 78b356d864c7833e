"""Shuffle sharding: each flow is dealt a hand of queues, and two flows seldom have the same hand.

A heavy flow fills the queues of its own hand; a light one that shares some of them still has others. The hand depends
on the flow alone, so no state is kept for flows.
https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#queuing
"""

from __future__ import annotations

import hashlib


def flow_hash(schema: str, flow: str) -> int:
    """A number of 64 bits for a flow; the same in every process."""
    digest = hashlib.sha256(f"{len(schema)},{schema},{flow}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def hand_of(value: int, queues: int, size: int) -> tuple[int, ...]:
    """`size` different numbers below `queues`, dealt by the digits of `value` as cards are from a shrinking deck.

        value = d0 + queues · (d1 + (queues-1) · (d2 + …))      card i = the d_i-th of those still in the deck

    `size` is at most `queues`.
    """
    dealt: list[int] = []
    for left in range(queues, queues - size, -1):
        value, card = divmod(value, left)
        # Cards already taken shift those behind them; going through them in order finds the card_th that is left.
        for taken in sorted(dealt):
            if taken > card:
                break
            card += 1
        dealt.append(card)
    return tuple(dealt)
