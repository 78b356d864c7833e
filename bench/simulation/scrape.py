"""Histograms of a component's /metrics, as differences between two moments.

https://prometheus.io/docs/practices/histograms/#quantiles
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

Labels = tuple[tuple[str, str], ...]

_LINE: Final = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(slots=True)
class Histogram:
    """Observations by the upper bound of their bucket, not cumulative."""

    counts: dict[float, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def total(self) -> float:
        return sum(self.counts.values())

    def add(self, other: Histogram) -> None:
        for bound, count in other.counts.items():
            self.counts[bound] += count

    def minus(self, other: Histogram) -> Histogram:
        """What came after `other`."""
        found = Histogram()
        for bound, count in self.counts.items():
            found.counts[bound] = max(0.0, count - other.counts.get(bound, 0.0))
        return found

    def quantile(self, share: float) -> float:
        """Linear within its bucket; of the last, which has no end, its beginning. NaN when nothing was observed."""
        wanted, below, floor = share * self.total, 0.0, 0.0
        for bound in sorted(self.counts):
            count = self.counts[bound]
            if count and below + count >= wanted:
                return floor if bound == float("inf") else floor + (bound - floor) * (wanted - below) / count
            below += count
            if bound != float("inf"):
                floor = bound
        return float("nan")


def histograms(text: str, name: str) -> dict[Labels, Histogram]:
    """The series of one histogram in an exposition, by their labels."""
    cumulative: dict[Labels, dict[float, float]] = defaultdict(dict)
    for labels, value in samples(text, f"{name}_bucket"):
        bound = float(labels.pop("le"))
        cumulative[tuple(sorted(labels.items()))][bound] = value
    found = {}
    for key, bounds in cumulative.items():
        before, own = 0.0, Histogram()
        for bound in sorted(bounds):
            own.counts[bound] = bounds[bound] - before
            before = bounds[bound]
        found[key] = own
    return found


def samples(text: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of each series of a metric."""
    for line in text.splitlines():
        if line.startswith(name):
            found = _LINE.match(line)
            if found is not None and found.group(1) == name:
                yield dict(_LABEL.findall(found.group(2) or "")), float(found.group(3))


def since(before: Mapping[Labels, Histogram], after: Mapping[Labels, Histogram]) -> dict[Labels, Histogram]:
    """What each series observed in between; those that observed nothing are left out."""
    found = {key: own.minus(before.get(key, Histogram())) for key, own in after.items()}
    return {key: own for key, own in found.items() if own.total}


def grouped(series: Mapping[Labels, Histogram], *names: str) -> dict[tuple[str, ...], Histogram]:
    """The series summed by the values of these labels."""
    found: dict[tuple[str, ...], Histogram] = defaultdict(Histogram)
    for labels, own in series.items():
        values = dict(labels)
        found[tuple(values.get(name, "") for name in names)].add(own)
    return dict(found)
