"""What was found: figures of each phase, kept in a file as soon as it ends, and shown as tables.

Objectives: https://github.com/kubernetes/community/blob/master/sig-scalability/slos/slos.md
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.report import machine, mib, ms, percentile, table
from bench.simulation.scrape import Histogram, grouped, histograms, since
from bench.simulation.usage import Use

SINGLE: Final = 1.0  # seconds, 99 %
NAMESPACE: Final = 30.0
CLUSTER: Final = 30.0
START: Final = 5.0
REQUESTS: Final = "apiserver_request_duration_seconds"
QUEUED: Final = "workqueue_queue_duration_seconds"
WORKED: Final = "workqueue_work_duration_seconds"
MUTATING: Final = frozenset({"POST", "CREATE", "PUT", "UPDATE", "PATCH", "APPLY", "DELETE"})


@dataclass(slots=True)
class Latency:
    """One row of the table of objectives, in seconds; `limit` 0: there is none."""

    what: str
    count: int
    p50: float
    p99: float
    limit: float = 0.0

    @property
    def kept(self) -> bool:
        return not self.limit or not self.p99 > self.limit


@dataclass(slots=True, kw_only=True)
class Phase:
    """What one phase found. `state`: running, done, failed, interrupted or skipped."""

    name: str
    state: str = "running"
    seconds: float = 0.0
    load: float = 0.0
    figures: dict[str, str] = field(default_factory=dict)
    latencies: list[Latency] = field(default_factory=list)
    controllers: list[Latency] = field(default_factory=list)
    use: dict[str, dict[str, float]] = field(default_factory=dict)  # process → cpu of this phase, rss, pss, peak
    problems: list[str] = field(default_factory=list)


class Results:
    """The phases so far; written to a file at every change."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.phases: list[Phase] = []
        self._path = path
        self._head = {"machine": machine(), "began": datetime.now(UTC).isoformat(), "settings": dict(settings)}

    def begin(self, name: str) -> Phase:
        """A phase begins."""
        self.phases.append(Phase(name=name))
        print(f"\n{name} (load {os.getloadavg()[0]:.1f})", flush=True)
        return self.phases[-1]

    def keep(self) -> None:
        """Write what there is; the file is whole at every moment."""
        document = {**self._head, "phases": [asdict(phase) for phase in self.phases]}
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(document, indent=1))
        new.rename(self._path)

    def show(self, phase: Phase) -> None:
        """One phase's tables."""
        print(f"  {phase.name}: {phase.state} after {phase.seconds:.1f} s, load {phase.load:.1f}")
        if phase.figures:
            table(["", ""], [[what, figure] for what, figure in phase.figures.items()])
        _show_latencies("API calls", phase.latencies)
        _show_latencies("controllers", phase.controllers)
        if phase.use:
            rows = [
                [name, f"{use['cpu']:.1f} s", mib(use["rss"]), mib(use["pss"]), mib(use["peak"])]
                for name, use in phase.use.items()
            ]
            table(["process", "CPU", "RSS", "PSS", "peak RSS"], rows)
        for problem in phase.problems:
            print(f"  PROBLEM: {problem}")
        print(flush=True)

    def summary(self) -> int:
        """All phases in one table; how many did not end well."""
        print("\nsummary")
        rows = [
            [phase.name, phase.state, f"{phase.seconds:.0f} s", sum(not row.kept for row in phase.latencies)]
            for phase in self.phases
        ]
        table(["phase", "state", "time", "objectives missed"], rows)
        for phase in self.phases:
            for what, figure in phase.figures.items():
                print(f"  {phase.name}: {what}: {figure}")
        print(f"  everything is in {self._path}", flush=True)
        return sum(phase.state not in ("done", "skipped") for phase in self.phases)


def _show_latencies(title: str, rows: Sequence[Latency]) -> None:
    if rows:
        cells = [
            [
                row.what,
                row.count,
                ms(row.p50),
                ms(row.p99),
                (f"{row.limit:g} s" + ("" if row.kept else " MISSED")) if row.limit else "",
            ]
            for row in rows
        ]
        table([title, "number", "p50", "p99", "objective"], cells)


def probed(waits: Mapping[str, Sequence[float]]) -> list[Latency]:
    """What the probing client waited."""
    limits = {"list a namespace": NAMESPACE, "list every pod": CLUSTER}
    return [
        Latency(f"probe: {what}", len(each), percentile(each, 0.5), percentile(each, 0.99), limits.get(what, SINGLE))
        for what, each in waits.items()
        if each
    ]


def served(before: str, after: str) -> list[Latency]:
    """The API server's own histogram: by verb and scope, and the slowest resource of those with many requests."""
    series = since(histograms(before, REQUESTS), histograms(after, REQUESTS))
    found = []
    for (verb, scope), own in sorted(grouped(series, "verb", "scope").items()):
        if verb not in ("WATCH", "CONNECT", "DELETECOLLECTION"):
            found.append(_latency(f"{verb} {scope}", own, _limit(verb, scope)))
    slowest, worst = "", Histogram()
    for labels, own in grouped(series, "verb", "resource", "subresource").items():
        if labels[0] in MUTATING and own.total >= 100 and not own.quantile(0.99) <= (worst.quantile(0.99) or 0):
            slowest, worst = " ".join(filter(None, labels)), own
    if slowest:
        found.append(_latency(f"slowest: {slowest}", worst, SINGLE))
    return found


def worked(before: str, after: str) -> list[Latency]:
    """How long keys waited in each queue, and how long each took: those with anything to do."""
    waited = since(histograms(before, QUEUED), histograms(after, QUEUED))
    took = since(histograms(before, WORKED), histograms(after, WORKED))
    rows = []
    for labels in sorted(waited):
        name = dict(labels).get("name", "")
        if waited[labels].total >= 10:
            rows.append(_latency(f"{name}: in queue", waited[labels], 0.0))
            rows.append(_latency(f"{name}: at work", took.get(labels, Histogram()), 0.0))
    return rows


def used(before: Mapping[str, Use], after: Mapping[str, Use]) -> dict[str, dict[str, float]]:
    """CPU between two moments, memory at the second."""
    return {
        name: {
            "cpu": use.cpu - (before[name].cpu if name in before else 0.0),
            "rss": use.rss,
            "pss": use.pss,
            "peak": use.peak,
        }
        for name, use in after.items()
    }


def started(starts: Sequence[float], limit: float) -> Latency:
    """How long pods took."""
    return Latency("pod start", len(starts), percentile(starts, 0.5), percentile(starts, 0.99), limit)


def _latency(what: str, own: Histogram, limit: float) -> Latency:
    p50, p99 = own.quantile(0.5), own.quantile(0.99)
    return Latency(what, int(own.total), 0.0 if math.isnan(p50) else p50, 0.0 if math.isnan(p99) else p99, limit)


def _limit(verb: str, scope: str) -> float:
    if verb == "LIST":
        return NAMESPACE if scope == "namespace" else CLUSTER
    return SINGLE


def remaining(ends: float) -> float:
    """Seconds until then."""
    return ends - time.monotonic()
