"""Numbers for things of the kernel that have no names: pools of endpoints, classes of traffic, marks."""

from __future__ import annotations

import hashlib


class Numbers:
    """Numbers from 1 to a limit, each in use once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used: set[int] = set()
        self._next = 1

    @property
    def is_full(self) -> bool:
        return len(self._used) >= self._limit

    def take(self, number: int) -> int:
        """The number itself or, in use, the next free one; raises RuntimeError when none is free."""
        if self.is_full:
            raise RuntimeError(f"all {self._limit} numbers are in use")
        number = (number - 1) % self._limit + 1
        while number in self._used:
            number = number % self._limit + 1
        self._used.add(number)
        return number

    def named(self, name: str) -> int:
        """A number that is the same in every run, as long as few names meet in one."""
        return self.take(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big"))

    def next(self) -> int:
        """The lowest number not used lately."""
        number = self._next = self.take(self._next)
        return number

    def free(self, number: int) -> None:
        self._used.discard(number)
