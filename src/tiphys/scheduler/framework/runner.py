"""Runs the plugins of one profile in their order. One `Framework` a scheduler name."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from random import Random
from time import perf_counter
from typing import Any

import numpy as np

from tiphys.scheduler import metrics
from tiphys.scheduler.config import Point
from tiphys.scheduler.framework.diagnosis import Unschedulable, diagnose
from tiphys.scheduler.framework.events import Event, Hint
from tiphys.scheduler.framework.interface import (
    BindPlugin,
    CycleState,
    FilterPlugin,
    Narrowed,
    PermitPlugin,
    Plugin,
    PostBindPlugin,
    PostFilterPlugin,
    PostFilterResult,
    PreBindPlugin,
    PreBindPreFlightPlugin,
    PreEnqueuePlugin,
    PreFilterPlugin,
    PreScorePlugin,
    QueueSortPlugin,
    Reason,
    Refusal,
    ReservePlugin,
    ScorePlugin,
    Skip,
    Verdict,
    Wait,
)
from tiphys.scheduler.nodetable import Mask, NodeTable, Numbers
from tiphys.scheduler.podinfo import PodInfo


class Framework:
    """The plugins of one profile, by extension point."""

    def __init__(
        self,
        scheduler_name: str,
        plugins: Sequence[tuple[Plugin, int]],
        points: Mapping[str, Point] | None = None,
        only_named: Container[str] = (),
    ) -> None:
        """`plugins` in order, each with its weight in the score (0 for those that do not score).

        `points` says which are left out, put first or added at single extension points; the plugins `only_named` are
        nowhere else.
        """
        self._points = points or {}
        self._only_named = only_named
        self.scheduler_name = scheduler_name
        self.plugins = tuple(plugin for plugin, _ in plugins)
        self.weights = {plugin.name: weight for plugin, weight in plugins}
        self.hints: dict[Event, dict[str, Hint]] = {
            event: {plugin.name: plugin.requeue_on[event] for plugin in self.plugins if event in plugin.requeue_on}
            for event in Event
        }
        self._times = metrics.PointTimes(scheduler_name)
        self._events: dict[frozenset[str], tuple[Event, ...]] = {}
        sorters = self._of(QueueSortPlugin, "queueSort")
        if len(sorters) != 1:
            raise ValueError(f"profile {scheduler_name} needs exactly one queue sort plugin, it has {len(sorters)}")
        self.queue_sort: QueueSortPlugin = sorters[0][1]
        self._pre_enqueue: list[tuple[str, PreEnqueuePlugin]] = self._of(PreEnqueuePlugin, "preEnqueue")
        self._pre_filter: list[tuple[str, PreFilterPlugin]] = self._of(PreFilterPlugin, "preFilter")
        self._filter: list[tuple[str, FilterPlugin]] = self._of(FilterPlugin, "filter")
        self._row_local = {plugin.name for plugin in self.plugins if getattr(plugin, "row_local", False)}
        self._post_filter: list[tuple[str, PostFilterPlugin]] = self._of(PostFilterPlugin, "postFilter")
        self._pre_score: list[tuple[str, PreScorePlugin]] = self._of(PreScorePlugin, "preScore")
        score = self._points.get("score", Point())
        weights = {**self.weights, **{name: weight or self.weights.get(name) or 1 for name, weight in score.enabled}}
        self._score: list[tuple[str, ScorePlugin, int]] = [
            (name, plugin, weights[name]) for name, plugin in self._of(ScorePlugin, "score") if weights[name]
        ]
        self._reserve: list[tuple[str, ReservePlugin]] = self._of(ReservePlugin, "reserve")
        self._permit: list[tuple[str, PermitPlugin]] = self._of(PermitPlugin, "permit")
        self._pre_bind: list[tuple[str, PreBindPlugin]] = self._of(PreBindPlugin, "preBind")
        self._bind: list[tuple[str, BindPlugin]] = self._of(BindPlugin, "bind")
        self._post_bind: list[tuple[str, PostBindPlugin]] = self._of(PostBindPlugin, "postBind")
        if not self._bind:
            raise ValueError(f"profile {scheduler_name} has no bind plugin")

    def _of(self, kind: Any, point: str) -> list[tuple[str, Any]]:
        """The plugins at an extension point, one of the Protocols of `interface`.

        First those the point names that are in the profile anyway, then the profile's others, then what it adds.
        """
        able = {plugin.name: plugin for plugin in self.plugins if isinstance(plugin, kind)}
        said = self._points.get(point, Point())
        everywhere = [name for name in able if name not in self._only_named]
        named = [name for name, _ in said.enabled]
        missing = [name for name in named if name not in able]
        if missing:
            raise ValueError(f"profile {self.scheduler_name}: plugin {missing[0]} does not extend {point}")
        left = [name for name in everywhere if name not in named and not said.disabled & {name, "*"}]
        order = [name for name in named if name in everywhere] + left
        order += [name for name in named if name not in everywhere]
        return [(name, able[name]) for name in order]

    def events_of(self, plugins: set[str]) -> tuple[Event, ...]:
        """The events that one of the named plugins asks for; of none: all."""
        known = self._events.get(key := frozenset(plugins))
        if known is None:
            known = tuple(event for event, hints in self.hints.items() if not plugins or plugins & hints.keys())
            self._events[key] = known
        return known

    def hints_of(self, event: Event, plugins: set[str]) -> list[Hint]:
        """What the named plugins have to say about an event."""
        interested = self.hints[event]
        return [hint for name, hint in interested.items() if name in plugins]

    # Scheduling cycle

    def pre_enqueue(self, pod: PodInfo) -> Refusal | None:
        for name, plugin in self._pre_enqueue:
            refusal = plugin.pre_enqueue(pod)
            if refusal is not None:
                return replace(refusal, plugin=name)
        return None

    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Refusal | dict[str, Narrowed]:
        """Prepare all filters; the refusal that ends it, or which plugins allow only some nodes."""
        narrowed: dict[str, Narrowed] = {}
        sampled = state.sampled
        for name, plugin in self._pre_filter:
            began = perf_counter() if sampled else 0.0
            answer = plugin.pre_filter(state, pod, nodes)
            if sampled:
                metrics.PLUGIN_SECONDS.labels(name, "PreFilter", "Success").observe(perf_counter() - began)
            if answer is None:
                continue
            if isinstance(answer, Skip):
                state.skip_filter.add(name)
            elif isinstance(answer, Refusal):
                return Refusal(answer.reason, name, answer.resolvable)
            else:
                narrowed[name] = answer
        return narrowed

    def filter(
        self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask
    ) -> tuple[Mask, list[tuple[str, Verdict]]]:
        """The rows of `feasible` that pass every filter, and the verdicts in order; ends when none is left."""
        verdicts: list[tuple[str, Verdict]] = []
        skipped, sampled = state.skip_filter, state.sampled
        for name, plugin in self._filter:
            if name in skipped:
                continue
            began = perf_counter() if sampled else 0.0
            verdict = plugin.filter(state, pod, nodes)
            if sampled:
                metrics.PLUGIN_SECONDS.labels(name, "Filter", "Success").observe(perf_counter() - began)
            if verdict is not None:
                verdicts.append((name, verdict))
                feasible = feasible & verdict.passed
                if not feasible.any():
                    break
        return feasible, verdicts

    def find_feasible(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Mask | Unschedulable:
        """PreFilter and Filter over all nodes: the rows the pod fits on, at least one, or why there is none."""
        began = perf_counter()
        prepared = self.pre_filter(state, pod, nodes)
        begun = perf_counter()
        if isinstance(prepared, Refusal):
            self._times.took("PreFilter", begun - began, "UnschedulableAndUnresolvable")
            return Unschedulable(len(nodes), refusal=prepared, plugins={prepared.plugin}, rows=nodes.alive.copy())
        candidates = nodes.alive
        if prepared:
            names = frozenset.intersection(*(narrowed.names for narrowed in prepared.values()))
            candidates = candidates & nodes.mask_of({nodes.row_of[name] for name in names if name in nodes.row_of})
        self._times.took("PreFilter", begun - began)
        feasible, verdicts = self.filter(state, pod, nodes, candidates)
        found = feasible.any()
        self._times.took("Filter", perf_counter() - begun, "Success" if found else "Unschedulable")
        return feasible if found else diagnose(nodes, verdicts, prepared)

    def diagnose(self, pod: PodInfo, nodes: NodeTable) -> Unschedulable:
        """Why the nodes that `find_feasible` left out are out, where it left some in."""
        state = CycleState()
        prepared = self.pre_filter(state, pod, nodes)
        if isinstance(prepared, Refusal):
            return Unschedulable(len(nodes), refusal=prepared, plugins={prepared.plugin}, rows=nodes.alive.copy())
        _, verdicts = self.filter(state, pod, nodes, nodes.alive)
        return diagnose(nodes, verdicts, prepared)

    def rejections(self, pod: PodInfo, nodes: NodeTable, row: int) -> Sequence[Reason]:
        """See `Filters`."""
        state = CycleState()
        prepared = self.pre_filter(state, pod, nodes)
        with nodes.focus(row):
            if isinstance(prepared, Refusal):
                return (Reason(prepared.reason, nodes.alive, prepared.resolvable),)
            return self._reasons(state, pod, nodes)

    def _reasons(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Sequence[Reason]:
        """Of the row in focus."""
        feasible, verdicts = self.filter(state, pod, nodes, nodes.alive)
        return () if feasible.any() else diagnose(nodes, verdicts, {}).reasons

    def row_local(self, pod: PodInfo, nodes: NodeTable) -> Callable[[int], Sequence[Reason]] | None:
        """See `Filters`."""
        state = CycleState()
        if isinstance(self.pre_filter(state, pod, nodes), Refusal):
            return None
        if any(name not in self._row_local and name not in state.skip_filter for name, _ in self._filter):
            return None

        def rejections(row: int) -> Sequence[Reason]:
            with nodes.focus(row):
                return self._reasons(state, pod, nodes)

        return rejections

    def post_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable, found: Unschedulable) -> PostFilterResult:
        """The first plugin that nominates a node; else what all of them say."""
        began = perf_counter()
        result = self._post_filtered(state, pod, nodes, found)
        self._times.took("PostFilter", perf_counter() - began, "Success" if result.nominated else "Unschedulable")
        return result

    def _post_filtered(
        self, state: CycleState, pod: PodInfo, nodes: NodeTable, found: Unschedulable
    ) -> PostFilterResult:
        messages = []
        nominated: str | None = None
        act = None
        for _, plugin in self._post_filter:
            result = plugin.post_filter(state, pod, nodes, found, self)
            if result.nominated:
                return result
            if result.ask is not None:
                return result
            act = act or result.act
            if result.nominated is not None:
                nominated = result.nominated
            if result.message:
                messages.append(result.message)
        return PostFilterResult(nominated, ", ".join(messages), act)

    def score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Numbers | None:
        """The weighted sum of all scores, meaningful on feasible rows; None: every row is as good as another."""
        sampled, began = state.sampled, perf_counter()
        for name, pre_scorer in self._pre_score:
            if isinstance(pre_scorer.pre_score(state, pod, nodes, feasible), Skip):
                state.skip_score.add(name)
        begun = perf_counter()
        self._times.took("PreScore", begun - began)
        total = self._scores(state, pod, nodes, feasible, sampled)
        self._times.took("Score", perf_counter() - begun)
        return total

    def _scores(
        self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask, sampled: bool
    ) -> Numbers | None:
        total: Numbers | None = None
        for name, plugin, weight in self._score:
            if name in state.skip_score:
                continue
            began = perf_counter() if sampled else 0.0
            scores = plugin.score(state, pod, nodes, feasible)
            if sampled:
                metrics.PLUGIN_SECONDS.labels(name, "Score", "Success").observe(perf_counter() - began)
            if scores is None:
                continue
            if weight != 1:
                scores = scores * weight
            total = scores if total is None else total + scores
        return total

    def reserve(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | None:
        began = perf_counter()
        refusal = self._reserved(state, pod, node)
        self._times.took("Reserve", perf_counter() - began, "Success" if refusal is None else "Unschedulable")
        return refusal

    def _reserved(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | None:
        for name, plugin in self._reserve:
            refusal = plugin.reserve(state, pod, node)
            if refusal is not None:
                self.unreserve(state, pod, node)
                return Refusal(refusal.reason, name)
        return None

    def unreserve(self, state: CycleState, pod: PodInfo, node: str) -> None:
        for _, plugin in reversed(self._reserve):
            plugin.unreserve(state, pod, node)

    def permit(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | dict[str, Wait]:
        """A refusal, or the plugins that want to wait."""
        began = perf_counter()
        answer = self._permitted(state, pod, node)
        status = "Unschedulable" if isinstance(answer, Refusal) else "Wait" if answer else "Success"
        self._times.took("Permit", perf_counter() - began, status)
        return answer

    def _permitted(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | dict[str, Wait]:
        waits: dict[str, Wait] = {}
        for name, plugin in self._permit:
            answer = plugin.permit(state, pod, node)
            if isinstance(answer, Refusal):
                return Refusal(answer.reason, name)
            if answer is not None:
                waits[name] = answer
        return waits

    # Binding cycle

    def pre_bind_pre_flight(self, state: CycleState, pod: PodInfo, node: str) -> bool:
        """Whether any plugin has something to do before the pod can be bound."""
        return any(
            not isinstance(plugin, PreBindPreFlightPlugin) or plugin.pre_bind_pre_flight(state, pod, node)
            for _, plugin in self._pre_bind
        )

    async def pre_bind(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | None:
        began, refused = perf_counter(), None
        for name, plugin in self._pre_bind:
            refusal = await plugin.pre_bind(state, pod, node)
            if refusal is not None:
                refused = Refusal(refusal.reason, name)
                break
        self._times.took("PreBind", perf_counter() - began, "Success" if refused is None else "Unschedulable")
        return refused

    async def bind(self, state: CycleState, pod: PodInfo, node: str) -> None:
        """Raises StatusError, or RuntimeError when every plugin declined."""
        began = perf_counter()
        for _, plugin in self._bind:
            if await plugin.bind(state, pod, node):
                self._times.took("Bind", perf_counter() - began)
                return
        raise RuntimeError(f"no bind plugin of {self.scheduler_name} took {pod.key}")

    def post_bind(self, state: CycleState, pod: PodInfo, node: str) -> None:
        for _, plugin in self._post_bind:
            plugin.post_bind(state, pod, node)


def best_row(scores: Numbers | None, feasible: Mask, random: Random) -> int:
    """The feasible row of the highest score; a tie is decided at random."""
    if scores is not None:
        masked = scores if feasible.all() else np.where(feasible, scores, -1.0)
        feasible = masked == masked[masked.argmax()]
    rows = np.flatnonzero(feasible)
    return int(rows[0] if len(rows) == 1 else rows[random.randrange(len(rows))])
