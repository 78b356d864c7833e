"""Exponential back-off per key, in the manner of the kubelet's: 10 s, 20 s … 5 min, forgotten after quiet.

```
 Next(key)        Next          Next
   |--- 10 s ------|--- 20 s ----|--- 40 s ---…     a key unused for 2 × longest starts at 10 s again
```
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tiphys.base.clock import Clock

FIRST: Final = timedelta(seconds=10)
LONGEST: Final = timedelta(minutes=5)


@dataclass(slots=True)
class _Entry:
    period: timedelta
    updated: datetime


class Backoff:
    """Remembers how long each key must wait since an event of it."""

    def __init__(self, clock: Clock, first: timedelta = FIRST, longest: timedelta = LONGEST) -> None:
        self._clock = clock
        self._first = min(first, longest)
        self._longest = longest
        self._entries: dict[str, _Entry] = {}

    def remaining(self, key: str, since: datetime) -> timedelta:
        """Time until `key` may act again, counted from its last event `since`; zero: now."""
        entry = self._entries.get(key)
        if entry is None or self._expired(entry, since):
            return timedelta(0)
        return max(timedelta(0), entry.period - (self._clock.now() - since))

    def period(self, key: str) -> timedelta:
        """The wait now in force for `key`; zero when there is none."""
        entry = self._entries.get(key)
        return entry.period if entry else timedelta(0)

    def next(self, key: str, since: datetime) -> timedelta:
        """Record one more attempt after the event at `since` and return the wait it earns."""
        entry = self._entries.get(key)
        if entry is None or self._expired(entry, since):
            period = self._first
        else:
            period = min(entry.period * 2, self._longest)
        self._entries[key] = _Entry(period, self._clock.now())
        return period

    def resume(self, key: str, attempts: int, since: datetime) -> None:
        """Remember `key` as after so many attempts, the last after the event at `since`; nothing if it is known."""
        if key not in self._entries:
            period = min(self._first * 2 ** min(attempts - 1, 16), self._longest)
            self._entries[key] = _Entry(period, since)

    def forget(self, key: str) -> None:
        self._entries.pop(key, None)

    def forget_prefix(self, prefix: str) -> None:
        """Forget every key of a pod (keys begin with its uid)."""
        for key in [key for key in self._entries if key.startswith(prefix)]:
            del self._entries[key]

    def _expired(self, entry: _Entry, since: datetime) -> bool:
        # Ten minutes of good running under the default, as documented; never shorter than that default.
        return since - entry.updated > max(self._longest, LONGEST) * 2
