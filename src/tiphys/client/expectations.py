"""What a controller has done that its cache does not show yet.

After creating or deleting objects a controller must not decide again from a cache that lags, or it
creates twice. It notes what it expects to see, its handlers tick that off, and `sync` acts only
when nothing is outstanding. Deletions are tracked by uid, because an object may be seen going away
more than once (first its deletionTimestamp, then its end).

Events may be lost for good only with the whole watch, and then a relist shows the state; an object
made and gone in between is never seen, so expectations expire.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from tiphys.base.clock import Clock

K = TypeVar("K", bound=Hashable)

EXPIRE_SECONDS: Final = 300.0


@dataclass(slots=True)
class _Expected:
    since: float
    creations: int = 0
    deletions: set[str] = field(default_factory=set)


class Expectations(Generic[K]):
    """Outstanding creations and deletions by controller key."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expected: dict[K, _Expected] = {}

    def expect_creations(self, key: K, count: int) -> None:
        """Call before creating `count` objects; replaces what was expected of `key`."""
        self._expected[key] = _Expected(self._clock.monotonic(), creations=count)

    def expect_deletions(self, key: K, uids: Iterable[str]) -> None:
        """Call before deleting the objects with these uids; replaces what was expected of `key`."""
        self._expected[key] = _Expected(self._clock.monotonic(), deletions=set(uids))

    def raise_creations(self, key: K, count: int) -> None:
        """Expect `count` more creations."""
        self._of(key).creations += count

    def raise_deletions(self, key: K, uids: Iterable[str]) -> None:
        """Expect the deletion of these as well."""
        self._of(key).deletions.update(uids)

    def creation_observed(self, key: K) -> None:
        """A creation was seen, or the request failed and none will come."""
        expected = self._expected.get(key)
        if expected is not None:
            expected.creations -= 1

    def deletion_observed(self, key: K, uid: str) -> None:
        """A deletion was seen, or the request failed and none will come."""
        expected = self._expected.get(key)
        if expected is not None:
            expected.deletions.discard(uid)

    def satisfied(self, key: K) -> bool:
        """Whether `sync` may trust the cache: nothing outstanding, or it is outstanding for too long."""
        expected = self._expected.get(key)
        if expected is None:
            return True
        if expected.creations <= 0 and not expected.deletions:
            return True
        return self._clock.monotonic() - expected.since > EXPIRE_SECONDS

    def forget(self, key: K) -> None:
        """The controller object is gone."""
        self._expected.pop(key, None)

    def _of(self, key: K) -> _Expected:
        return self._expected.setdefault(key, _Expected(self._clock.monotonic()))
