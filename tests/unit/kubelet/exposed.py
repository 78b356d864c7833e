"""Reads what the process exposes, so that a test says what it wants to have moved.

Series are those of the whole process, which other tests move too: only differences count.
"""

from __future__ import annotations

from tiphys.base.metrics import REGISTRY


def samples(exposition: bytes | None = None) -> dict[str, float]:
    """Every sample by its name and labels, as a scrape has it."""
    lines = (REGISTRY.expose() if exposition is None else exposition).decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


class Moved:
    """How samples moved since this was made."""

    def __init__(self) -> None:
        self._before = samples()

    def by(self, name: str) -> float:
        """The difference of one sample; what was not there counts as nothing."""
        return samples().get(name, 0.0) - self._before.get(name, 0.0)
