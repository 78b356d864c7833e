"""How many seats a level could have used, over time: the figures that seats are lent by. KEP-1040."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# The smoothed demand falls to half of the way down in five minutes, at one adjustment every ten seconds.
DECAY: Final = 0.977


@dataclass(frozen=True, slots=True)
class Observed:
    """Demand between two adjustments, weighted by time."""

    high: float = 0.0
    average: float = 0.0
    deviation: float = 0.0

    @property
    def envelope(self) -> float:
        """A demand that was seldom exceeded."""
        return min(self.high, self.average + self.deviation)


class Demand:
    """A number that is followed over time."""

    __slots__ = ("_area", "_begun", "_high", "_last", "_squares", "smoothed", "value")

    def __init__(self, now: float) -> None:
        self.value = 0
        self.smoothed = 0.0
        self._begun = self._last = now
        self._area = self._squares = 0.0
        self._high = 0

    def change(self, by: int, now: float) -> None:
        """The number changes at `now` (seconds of a clock that never goes back)."""
        value = self.value
        passed = now - self._last
        self._last = now
        weighted = value * passed
        self._area += weighted
        self._squares += value * weighted
        value += by
        self.value = value
        if value > self._high:
            self._high = value

    def take(self, now: float) -> Observed:
        """What was seen since the last time, and begin anew."""
        self.change(0, now)
        passed = now - self._begun
        if passed <= 0:
            found = Observed(float(self._high), float(self.value))
        else:
            average = self._area / passed
            variance = max(self._squares / passed - average * average, 0.0)
            found = Observed(float(self._high), average, math.sqrt(variance))
        self._begun = now
        self._area = self._squares = 0.0
        self._high = self.value
        envelope = found.envelope
        self.smoothed = max(envelope, DECAY * self.smoothed + (1 - DECAY) * envelope)
        return found
