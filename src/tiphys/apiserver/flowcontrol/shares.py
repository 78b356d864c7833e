"""How the server's seats are divided among the priority levels, and lent from one to another.

    nominal  = ⌈seats · shares / sum of shares⌉
    lower    = nominal - what it may lend            upper = nominal + what it may borrow (without a limit: all seats)
    current  between them, by what each level could have used lately; adjusted every ten seconds

https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#prioritylevelconfiguration, KEP-1040.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Object = Mapping[str, Any]
DEFAULT_SHARES: Final = 30
EXEMPT: Final = "Exempt"


@dataclass(frozen=True, slots=True)
class Queuing:
    """How a level queues what it cannot serve at once."""

    queues: int = 64
    hand_size: int = 8
    length: int = 50  # requests a queue holds at most


@dataclass(frozen=True, slots=True)
class LevelSpec:
    """What a PriorityLevelConfiguration says. Without `queuing` the level refuses what it cannot serve at once."""

    name: str
    uid: str = ""
    exempt: bool = False
    shares: int = DEFAULT_SHARES
    lendable: int = 0  # percent of the nominal seats
    borrowing: int | None = None  # percent of the nominal seats; None: no limit
    queuing: Queuing | None = None

    @classmethod
    def from_json(cls, level: Object) -> LevelSpec:
        """`level`: an object of kind PriorityLevelConfiguration."""
        metadata, spec = level["metadata"], level.get("spec") or {}
        exempt = spec.get("type") == EXEMPT
        limits = spec.get("exempt" if exempt else "limited") or {}
        shares = limits.get("nominalConcurrencyShares")
        queuing = None
        response = limits.get("limitResponse") or {}
        if response.get("type") == "Queue":
            found = response.get("queuing") or {}
            default = Queuing()
            queuing = Queuing(
                found.get("queues") or default.queues,
                found.get("handSize") or default.hand_size,
                found.get("queueLengthLimit") or default.length,
            )
        return cls(
            metadata["name"],
            metadata.get("uid", ""),
            exempt,
            (0 if exempt else DEFAULT_SHARES) if shares is None else shares,
            limits.get("lendablePercent") or 0,
            limits.get("borrowingLimitPercent"),
            queuing,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Seats of a level."""

    nominal: int
    lower: int
    upper: int


def limits_of(specs: Sequence[LevelSpec], seats: int) -> dict[str, Limits]:
    """Each level's limits, by its name, on a server with so many seats."""
    total = sum(spec.shares for spec in specs)
    found = {}
    for spec in specs:
        nominal = math.ceil(seats * spec.shares / total) if total else 0
        lendable = _half_up(nominal * spec.lendable / 100)
        more = seats if spec.borrowing is None else _half_up(nominal * spec.borrowing / 100)
        found[spec.name] = Limits(nominal, nominal - lendable, nominal + more)
    return found


def _half_up(value: float) -> int:
    return math.floor(value + 0.5)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a level could use, for one adjustment."""

    least: float  # seats that it gets in any case
    most: float
    target: float  # seats it should have, going by its recent demand


def claim_of(limits: Limits, high: float, smoothed: float, *, exempt: bool) -> Claim:
    """The claim of a level whose demand was `high` at most since the last adjustment, `smoothed` over minutes."""
    # Seats that were lent are taken back as far as they have been wanted.
    least = float(max(limits.lower, min(limits.nominal, math.ceil(high))))
    if exempt:
        least = max(float(limits.lower), smoothed)
        return Claim(least, least, max(least, smoothed))
    return Claim(least, float(limits.upper), max(least, smoothed))


def divide(claims: Sequence[Claim], seats: float) -> tuple[list[float], float]:
    """Seats for each claim, and the fraction f: each gets f · target, within its least and its most.

    The sum is `seats`, unless the bounds do not let it be.
    """
    if not claims:
        return [], 0.0
    floor, ceiling = sum(claim.least for claim in claims), sum(claim.most for claim in claims)
    if floor >= seats:
        return [claim.least for claim in claims], 0.0
    if ceiling <= seats:
        return [claim.most for claim in claims], 0.0
    targets = [max(claim.target, TINY) for claim in claims]
    low, high = 0.0, max(claim.most / target for claim, target in zip(claims, targets, strict=True))
    # The sum grows with f, so halving finds it; what is left of the interval after 60 steps is far below one seat.
    for _ in range(60):
        middle = (low + high) / 2
        if sum(_between(claim, middle * target) for claim, target in zip(claims, targets, strict=True)) < seats:
            low = middle
        else:
            high = middle
    return [_between(claim, high * target) for claim, target in zip(claims, targets, strict=True)], high


# A level without any demand has a target of its least seats; where these are none, it still takes part.
TINY: Final = 1e-6


def _between(claim: Claim, value: float) -> float:
    return min(max(value, claim.least), claim.most)
