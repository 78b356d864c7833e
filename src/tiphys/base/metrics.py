"""Counters, gauges and histograms in the Prometheus text format.

A metric is created once, at import or construction, and bound to label values on first use:
`REQUESTS.labels("GET", "pods").inc()`. Binding is a dictionary look-up, so hot paths keep the
bound child. https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Generic, TypeVar

DEFAULT_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _labels(names: Sequence[str], values: Sequence[str], extra: str = "") -> str:
    parts = [f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True)]
    if extra:
        parts.append(extra)
    return "{" + ",".join(parts) + "}" if parts else ""


class CounterValue:
    """One time series that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def lines(self, name: str, names: Sequence[str], values: Sequence[str]) -> Iterator[str]:
        yield f"{name}{_labels(names, values)} {_number(self.value)}"


class GaugeValue(CounterValue):
    """One time series that goes up and down."""

    __slots__ = ()

    def set(self, value: float) -> None:
        self.value = value

    def dec(self, amount: float = 1.0) -> None:
        self.value -= amount


class HistogramValue:
    """One distribution: observations counted into buckets by their upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, names: Sequence[str], values: Sequence[str]) -> Iterator[str]:
        cumulative = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            cumulative += count
            le = f'le="{_number(bound)}"'
            yield f"{name}_bucket{_labels(names, values, le)} {cumulative}"
        yield f"{name}_sum{_labels(names, values)} {_number(self.total)}"
        yield f"{name}_count{_labels(names, values)} {cumulative}"


V = TypeVar("V", bound="CounterValue | HistogramValue", covariant=True)


class Metric(Generic[V]):
    """A named family of time series, one for each combination of label values."""

    def __init__(self, kind: str, name: str, help_text: str, label_names: Sequence[str], make: Callable[[], V]) -> None:
        self.kind = kind
        self.name = name
        self.help = help_text
        self.label_names = tuple(label_names)
        self._make = make
        self._children: dict[tuple[str, ...], V] = {}

    def labels(self, *values: str) -> V:
        """The series with these label values, in the order of the names; made on first use."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} takes the labels {', '.join(self.label_names)}")
            child = self._children[values] = self._make()
        return child

    def items(self) -> Iterable[tuple[tuple[str, ...], V]]:
        """Every series by its label values."""
        return self._children.items()

    def remove(self, *values: str) -> None:
        """Forget one series; nothing happens if it is not there."""
        self._children.pop(values, None)

    def clear(self) -> None:
        """Forget every series."""
        self._children.clear()

    def expose(self) -> Iterator[str]:
        """The family's lines; none while it has no series, as a process that was forked has other components' too."""
        if not self._children:
            return
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for values, child in sorted(self._children.items()):
            yield from child.lines(self.name, self.label_names, values)


Series = Iterable[tuple[Sequence[str], "float | HistogramValue"]]


class Computed:
    """A family whose series are told when somebody asks: label values, in the order of the names, and what they have.

    For what is there to be counted anyway, so that counting costs nothing.
    """

    def __init__(
        self, kind: str, name: str, help_text: str, label_names: Sequence[str], series: Callable[[], Series]
    ) -> None:
        self.kind = kind
        self.name = name
        self.help = help_text
        self.label_names = tuple(label_names)
        self._series = series

    def expose(self) -> Iterator[str]:
        """The family's lines; none while it has no series."""
        lines: list[str] = []
        for values, value in self._series():
            if isinstance(value, HistogramValue):
                lines.extend(value.lines(self.name, self.label_names, values))
            else:
                lines.append(f"{self.name}{_labels(self.label_names, values)} {_number(value)}")
        if lines:
            yield f"# HELP {self.name} {self.help}"
            yield f"# TYPE {self.name} {self.kind}"
            yield from lines


class Registry:
    """The metrics of one process, exposed together."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric[CounterValue] | Metric[GaugeValue] | Metric[HistogramValue] | Computed] = {}
        self._collectors: list[Callable[[], Iterable[str]]] = []

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Metric[CounterValue]:
        metric = Metric("counter", name, help_text, labels, CounterValue)
        self._metrics[name] = metric
        return metric

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Metric[GaugeValue]:
        metric = Metric("gauge", name, help_text, labels, GaugeValue)
        self._metrics[name] = metric
        return metric

    def histogram(
        self, name: str, help_text: str, labels: Sequence[str] = (), buckets: Sequence[float] = DEFAULT_BUCKETS
    ) -> Metric[HistogramValue]:
        bounds = tuple(buckets)
        metric = Metric("histogram", name, help_text, labels, lambda: HistogramValue(bounds))
        self._metrics[name] = metric
        return metric

    def computed(
        self, kind: str, name: str, help_text: str, labels: Sequence[str], series: Callable[[], Series]
    ) -> Callable[[], None]:
        """Add a family that is computed at scrape time; what is returned takes it away, if no other took its place."""
        family = self._metrics[name] = Computed(kind, name, help_text, labels, series)

        def remove() -> None:
            if self._metrics.get(name) is family:
                del self._metrics[name]

        return remove

    def collector(self, lines: Callable[[], Iterable[str]]) -> Callable[[], None]:
        """Add a function that yields ready-made exposition lines at scrape time; what is returned takes it away."""
        self._collectors.append(lines)

        def remove() -> None:
            if lines in self._collectors:
                self._collectors.remove(lines)

        return remove

    def expose(self) -> bytes:
        """Everything in the text format, version 0.0.4."""
        lines: list[str] = []
        for name in sorted(self._metrics):
            lines.extend(self._metrics[name].expose())
        for collect in self._collectors:
            lines.extend(collect())
        return ("\n".join(lines) + "\n").encode()


REGISTRY: Final = Registry()
