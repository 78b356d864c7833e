"""DefaultPreemption: evicts pods of lower priority when a pod fits nowhere. Source: "Pod Priority and Preemption"."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Final

from tiphys.api.core.v1 import Pod
from tiphys.api.policy.v1 import PodDisruptionBudget
from tiphys.base.log import get_logger
from tiphys.client import NORMAL, Lister, PatchType, Preconditions
from tiphys.machinery.errors import ConflictError, NotFoundError
from tiphys.machinery.time import format_time
from tiphys.scheduler import metrics
from tiphys.scheduler.extender import ExtenderError
from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import CycleState, Diagnosis, Filters, PostFilterResult
from tiphys.scheduler.handle import Handle
from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.podinfo import PodInfo
from tiphys.scheduler.preemption import Answers, Candidate, best_candidate, candidates_wanted, find_candidates

log = get_logger(__name__)

NEVER: Final = "not eligible due to preemptionPolicy=Never."
NO_CANDIDATE: Final = "no candidate node for preemption"
TERMINATING: Final = "not eligible due to a terminating pod on the nominated node."


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultPreemption:
    """`min_candidate_nodes_*`: how many nodes are tried before the best of them is taken."""

    name: ClassVar[str] = "DefaultPreemption"
    requeue_on: ClassVar[Requeue] = {Event.POD_DELETE: always}
    handle: Handle
    budgets: Lister[PodDisruptionBudget]
    min_candidate_nodes_percentage: int = 10
    min_candidate_nodes_absolute: int = 100
    answers: Answers = field(default_factory=Answers)

    def post_filter(
        self, state: CycleState, pod: PodInfo, nodes: NodeTable, diagnosis: Diagnosis, filters: Filters
    ) -> PostFilterResult:
        refusal = self._not_eligible(pod, nodes)
        if refusal:
            return PostFilterResult(None, f"preemption: {refusal}")
        metrics.PREEMPTION_ATTEMPTS.labels().inc()
        wanted = candidates_wanted(len(nodes), self.min_candidate_nodes_percentage, self.min_candidate_nodes_absolute)
        resolvable = diagnosis.resolvable()
        candidates, message = find_candidates(
            pod,
            nodes,
            resolvable,
            filters,
            self.budgets.list(),
            rivals_on=lambda node: self.handle.nominator.rivals_on(node, pod),
            start=self.handle.random.randrange(max(len(nodes), 1)),
            wanted=wanted,
            answers=self.answers,
            own_row=nodes.row_of.get(self.handle.nominator.node_of(pod.uid) or ""),
        )
        if not candidates:
            return PostFilterResult("", f"preemption: {message}")
        if self.handle.extenders.preempt_for(pod):
            return PostFilterResult(None, ask=partial(self._ask, pod, nodes, candidates))
        return self._choose(pod, nodes, candidates)

    async def _ask(self, pod: PodInfo, nodes: NodeTable, candidates: Sequence[Candidate]) -> PostFilterResult:
        """Let the extenders narrow the candidates; time passes, so that only those still true count."""
        try:
            left = await self.handle.extenders.preempt(pod, nodes, candidates)
        except ExtenderError as error:
            return PostFilterResult(None, f"preemption: {error}")
        present = [candidate for candidate in left if _still_there(candidate, nodes)]
        return self._choose(pod, nodes, present) if present else PostFilterResult("", f"preemption: {NO_CANDIDATE}")

    def _choose(self, pod: PodInfo, nodes: NodeTable, candidates: Sequence[Candidate]) -> PostFilterResult:
        chosen = best_candidate(candidates)
        metrics.PREEMPTION_VICTIMS.labels().observe(len(chosen.victims))
        yielding = [other for other in self.handle.nominator.nominated_on(chosen.node) if other.priority < pod.priority]
        for other in yielding:
            # The room made for it goes to a more important pod: it must look again.
            self.handle.nominator.nominate(other, None)
        victims = frozenset(victim.uid for victim in chosen.victims)
        return PostFilterResult(chosen.node, act=partial(self._evict, pod, nodes, chosen, yielding), victims=victims)

    def _not_eligible(self, pod: PodInfo, nodes: NodeTable) -> str:
        """Why the pod may not preempt (again) now; empty when it may."""
        if pod.pod.spec.preemption_policy == "Never":
            return NEVER
        nominator = self.handle.nominator
        row = nodes.row_of.get(nominator.node_of(pod.uid) or pod.pod.status.nominated_node_name)
        info = None if row is None else nodes.rows[row]
        if info is None:
            return ""
        victims = nominator.victims_of(pod.uid)  # also those of which nobody has seen yet that they terminate
        for uid, other in info.pods.items():
            if uid in victims or (other.terminating and other.priority < pod.priority):
                return TERMINATING
        return ""

    async def _evict(self, pod: PodInfo, nodes: NodeTable, chosen: Candidate, yielding: Sequence[PodInfo]) -> bool:
        """True when they are gone already. Raises the first error of the API; the pod is then tried again."""
        results = await asyncio.gather(
            *(self._evict_one(pod, victim, chosen.node) for victim in chosen.victims),
            *(self._clear_nomination(other) for other in yielding),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        row = nodes.row_of.get(chosen.node)
        info = None if row is None else nodes.rows[row]
        return info is None or not any(victim.uid in info.pods for victim in chosen.victims)

    async def _evict_one(self, pod: PodInfo, victim: PodInfo, node: str) -> None:
        if victim.terminating:
            return
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": f"{self.handle.scheduler_name}: preempting to accommodate a higher priority pod",
            "lastTransitionTime": format_time(self.handle.clock.now()),
        }
        client = self.handle.client
        try:
            await client.patch(
                Pod,
                victim.key,
                {"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}},
                patch_type=PatchType.STRATEGIC,
                subresource="status",
            )
            await client.delete(Pod, victim.key, only_if=Preconditions(uid=victim.uid))
        except (NotFoundError, ConflictError):
            return  # it is gone already, or another pod has its name now
        log.info("preempted %s on %s for %s", victim.key, node, pod.key)
        self.handle.events.event(victim.pod, NORMAL, "Preempted", f"Preempted by pod {pod.uid} on node {node}")

    async def _clear_nomination(self, other: PodInfo) -> None:
        try:
            await self.handle.client.patch(
                Pod, other.key, {"status": {"nominatedNodeName": None}}, subresource="status"
            )
        except NotFoundError:
            return


def _still_there(candidate: Candidate, nodes: NodeTable) -> bool:
    """Whether the node and all its victims are what they were."""
    row = nodes.row_of.get(candidate.node)
    info = None if row is None else nodes.rows[row]
    return info is not None and all(victim.uid in info.pods for victim in candidate.victims)
