"""Keeps one pod of each DaemonSet on every node that fits, and rolls new templates out node by node."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec.structs import replace

from tiphys.api.apps.v1 import ControllerRevision, DaemonSet, DaemonSetStatus
from tiphys.api.core.v1 import Node, Pod
from tiphys.client import DONE, NORMAL, WARNING, Controller, Expectations, RequeueAfter, Result, enqueue, key_of
from tiphys.controllers.common import history
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.hashing import template_hash
from tiphys.controllers.common.owners import (
    BY_CONTROLLER,
    claim,
    controller_of,
    index_by_controller,
    may_be_adopted_now,
    orphans_of,
)
from tiphys.controllers.common.podcontrol import PodControl, namespace_terminating, pod_from_template, slow_start
from tiphys.controllers.common.pods import available_in, is_available, is_ready
from tiphys.controllers.common.selectors import selector_of
from tiphys.controllers.daemonset import rolling
from tiphys.controllers.daemonset.nodes import node_of, placement, spec_for
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

BURST: Final = 250
TEMPLATE_GENERATION: Final = "deprecated.daemonset.template.generation"
FIRST_BACKOFF: Final = 1.0  # seconds, for killing failed pods of a node; doubles to a quarter of an hour
LONGEST_BACKOFF: Final = 900.0
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


class DaemonSetController(Controller[ObjectName]):
    """The controller `daemonset-controller`."""

    name = "daemonset"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("daemonset-controller")
        self._control = PodControl(context.client, self._recorder)
        self._daemons = context.informers.of(DaemonSet)
        self._pods = context.informers.of(Pod)
        self._nodes = context.informers.of(Node)
        self._revisions = context.informers.of(ControllerRevision)
        super().__init__(context.clock, (self._daemons, self._pods, self._nodes, self._revisions))
        self._expectations: Expectations[ObjectName] = Expectations(context.clock)
        self._kills: dict[tuple[str, str], tuple[float, float]] = {}  # (uid, node) -> (next allowed, delay)
        index_by_controller(self._pods)
        index_by_controller(self._revisions)
        enqueue(self.queue, self._daemons)
        self._pods.add_handler(self._pod_added, self._pod_updated, self._pod_deleted)
        self._nodes.add_handler(self._node_changed, self._node_updated, self._node_changed)

    # What changed

    def _daemon_key(self, pod: Pod) -> ObjectName | None:
        reference = controller_of(pod)
        if reference is None or reference.kind != DaemonSet.KIND:
            return None
        return ObjectName(pod.metadata.namespace, reference.name)

    def _pod_added(self, pod: Pod) -> None:
        key = self._daemon_key(pod)
        if key is not None:
            self._expectations.creation_observed(key)
            self.queue.add(key)
        elif controller_of(pod) is None:
            self._queue_matching(pod)

    def _pod_updated(self, old: Pod, pod: Pod) -> None:
        before, key = self._daemon_key(old), self._daemon_key(pod)
        if before is not None and before != key:
            self.queue.add(before)
        if may_be_adopted_now(old, pod):
            self._queue_matching(pod)
        if key is None:
            return
        if pod.metadata.deletion_timestamp is not None:
            self._expectations.deletion_observed(key, pod.metadata.uid)
        self.queue.add(key)

    def _pod_deleted(self, pod: Pod) -> None:
        key = self._daemon_key(pod)
        if key is not None:
            self._expectations.deletion_observed(key, pod.metadata.uid)
            self.queue.add(key)

    def _queue_matching(self, pod: Pod) -> None:
        for daemon in self._daemons.lister.list(pod.metadata.namespace):
            selector = selector_of(daemon.spec.selector)
            if selector is not None and selector.matches(pod.metadata.labels):
                self.queue.add(key_of(daemon))

    def _node_changed(self, node: Node) -> None:
        for daemon in self._daemons.lister.list():
            if placement(daemon, node) != (False, False):
                self.queue.add(key_of(daemon))

    def _node_updated(self, old: Node, new: Node) -> None:
        if (old.metadata.labels, old.spec.taints) == (new.metadata.labels, new.spec.taints):
            return
        for daemon in self._daemons.lister.list():
            if placement(daemon, old) != placement(daemon, new):
                self.queue.add(key_of(daemon))

    # What is done about it

    async def sync(self, key: ObjectName) -> Result:
        """Bring one DaemonSet's pods to its nodes."""
        daemon = self._daemons.lister.get(key)
        if daemon is None:
            self._expectations.forget(key)
            return DONE
        selector = selector_of(daemon.spec.selector)
        if selector is None or selector.empty:
            message = "This daemon set is selecting all pods. A non-empty selector is required."
            self._recorder.event(daemon, WARNING, "SelectingAll", message)
            return DONE
        if daemon.metadata.deletion_timestamp is not None:
            return DONE
        revisions = self._revisions.lister.by_index(BY_CONTROLLER, daemon.metadata.uid)
        current, collisions = await self._current_revision(daemon, revisions)
        revision_hash = current.metadata.labels.get(rolling.HASH_LABEL, "")
        pods = await self._claim(daemon)
        by_node: dict[str, list[Pod]] = {}
        for pod in pods:
            by_node.setdefault(node_of(pod), []).append(pod)
        if self._expectations.satisfied(key):
            await self._manage(key, daemon, by_node, revision_hash)
            if self._expectations.satisfied(key) and _is_rolling(daemon):
                await self._roll(key, daemon, by_node, revision_hash)
        live = {f"{key.name}-{pod.metadata.labels.get(rolling.HASH_LABEL, '')}" for pod in pods}
        await history.truncate(
            self._client, revisions, live | {current.metadata.name}, daemon.spec.revision_history_limit
        )
        await self._report(daemon, by_node, revision_hash, collisions)
        return self._next(daemon, pods)

    async def _current_revision(
        self, daemon: DaemonSet, revisions: Sequence[ControllerRevision]
    ) -> tuple[ControllerRevision, int | None]:
        found = history.equal_to(revisions, daemon.spec.template)
        if found is not None:
            newest = max(one.revision for one in revisions)
            number = newest if found.revision == newest else newest + 1
            return await history.renumber(self._client, found, number), daemon.status.collision_count
        annotations = {
            name: value
            for name, value in daemon.metadata.annotations.items()
            if name != "kubectl.kubernetes.io/last-applied-configuration"
        }
        made, collisions = await history.create(
            self._client,
            daemon,
            daemon.spec.template,
            number=history.next_number(revisions),
            hash_label=rolling.HASH_LABEL,
            hasher=lambda count: template_hash(daemon.spec.template, count or None),
            collision_count=daemon.status.collision_count or 0,
            annotations=annotations,
        )
        return made, collisions or None

    async def _claim(self, daemon: DaemonSet) -> list[Pod]:
        selector = selector_of(daemon.spec.selector)
        lister = self._pods.lister
        candidates = [
            *lister.by_index(BY_CONTROLLER, daemon.metadata.uid),
            *lister.by_index(BY_CONTROLLER, orphans_of(daemon.metadata.namespace)),
        ]
        return await claim(
            self._client,
            Pod,
            daemon,
            candidates,
            lambda pod: selector is not None and selector.matches(pod.metadata.labels),
        )

    async def _manage(
        self, key: ObjectName, daemon: DaemonSet, by_node: dict[str, list[Pod]], revision_hash: str
    ) -> None:
        """One pod where one belongs, none where none does, and failed ones replaced."""
        missing: list[str] = []
        doomed: list[Pod] = []
        known = set()
        for node in self._nodes.lister.list():
            name = node.metadata.name
            known.add(name)
            starts, stays = placement(daemon, node)
            pods = by_node.get(name, [])
            if starts and not pods:
                missing.append(name)
            elif stays:
                doomed += self._unwanted(daemon, name, pods)
            else:
                doomed += [pod for pod in pods if pod.metadata.deletion_timestamp is None]
        # Pods waiting for a node that is gone; those it ran are the pod garbage collector's.
        doomed += [
            pod
            for name, pods in by_node.items()
            if name not in known
            for pod in pods
            if not pod.spec.node_name and pod.metadata.deletion_timestamp is None
        ]
        await self._apply(key, daemon, missing, doomed, revision_hash)

    def _unwanted(self, daemon: DaemonSet, node: str, pods: Sequence[Pod]) -> list[Pod]:
        """Failed and finished pods, when their back-off allows, and all but the oldest of those that run."""
        doomed: list[Pod] = []
        running: list[Pod] = []
        for pod in pods:
            if pod.metadata.deletion_timestamp is not None:
                continue
            if pod.status.phase not in ("Failed", "Succeeded"):
                running.append(pod)
            elif self._may_kill(daemon, node):
                kind = pod.status.phase.lower()
                message = f"Found {kind} daemon pod {key_of(pod)} on node {node}, will try to "
                if kind == "failed":
                    self._recorder.event(daemon, WARNING, "FailedDaemonPod", f"{message}kill it")
                else:
                    self._recorder.event(daemon, NORMAL, "SucceededDaemonPod", f"{message}delete it")
                doomed.append(pod)
        if _surge_allowed(daemon):
            by_hash: dict[str, list[Pod]] = {}
            for pod in running:
                by_hash.setdefault(pod.metadata.labels.get(rolling.HASH_LABEL, ""), []).append(pod)
            return doomed + [pod for group in by_hash.values() for pod in _all_but_oldest(group)]
        return doomed + _all_but_oldest(running)

    def _may_kill(self, daemon: DaemonSet, node: str) -> bool:
        now = self.clock.monotonic()
        allowed, delay = self._kills.get((daemon.metadata.uid, node), (now, FIRST_BACKOFF / 2))
        if now < allowed:
            self.queue.add_after(key_of(daemon), allowed - now)
            return False
        delay = min(delay * 2, LONGEST_BACKOFF)
        self._kills[daemon.metadata.uid, node] = (now + delay, delay)
        return True

    async def _roll(
        self, key: ObjectName, daemon: DaemonSet, by_node: dict[str, list[Pod]], revision_hash: str
    ) -> None:
        wanted = [node.metadata.name for node in self._nodes.lister.list() if placement(daemon, node)[0]]
        step = rolling.step(daemon, by_node, wanted, revision_hash, self.clock.now())
        if step.delete or step.surge:
            await self._apply(key, daemon, step.surge, step.delete, revision_hash)

    async def _apply(
        self, key: ObjectName, daemon: DaemonSet, missing: Sequence[str], doomed: Sequence[Pod], revision_hash: str
    ) -> None:
        """Create pods for nodes and delete pods; raises the first error."""
        missing, doomed = missing[:BURST], doomed[:BURST]
        if not missing and not doomed:
            return
        self._expectations.expect_creations(key, len(missing))
        self._expectations.raise_deletions(key, [pod.metadata.uid for pod in doomed])
        generation = daemon.metadata.annotations.get(TEMPLATE_GENERATION, "")
        labels = {rolling.HASH_LABEL: revision_hash, **({"pod-template-generation": generation} if generation else {})}
        template = pod_from_template(
            daemon.spec.template, daemon, generate_name=f"{daemon.metadata.name}-", extra_labels=labels
        )
        started = 0

        async def create(number: int) -> None:
            nonlocal started
            started += 1
            try:
                await self._control.create(replace(template, spec=spec_for(template.spec, missing[number])), daemon)
            except BaseException as error:
                self._expectations.creation_observed(key)
                if isinstance(error, StatusError) and namespace_terminating(error):
                    return
                raise

        async def delete(pod: Pod) -> None:
            try:
                await self._control.delete(pod, daemon)
            except BaseException:
                self._expectations.deletion_observed(key, pod.metadata.uid)
                raise

        _, error = await slow_start(len(missing), create)
        for _ in range(len(missing) - started):
            self._expectations.creation_observed(key)
        results = await asyncio.gather(*(delete(pod) for pod in doomed), return_exceptions=True)
        error = error or next((result for result in results if isinstance(result, Exception)), None)
        if error is not None:
            raise error

    async def _report(
        self, daemon: DaemonSet, by_node: dict[str, list[Pod]], revision_hash: str, collisions: int | None
    ) -> None:
        desired = current = misplaced = ready = available = updated = 0
        now = self.clock.now()
        for node in self._nodes.lister.list():
            starts, _ = placement(daemon, node)
            pods = [pod for pod in by_node.get(node.metadata.name, ()) if pod.metadata.deletion_timestamp is None]
            if not starts:
                misplaced += bool(pods)
                continue
            desired += 1
            if not pods:
                continue
            current += 1
            oldest = min(pods, key=lambda pod: (not is_ready(pod), pod.metadata.creation_timestamp or _EPOCH))
            ready += is_ready(oldest)
            available += is_ready(oldest) and is_available(oldest, daemon.spec.min_ready_seconds or 0, now)
            updated += any(rolling.is_new(pod, revision_hash) for pod in pods)
        status = DaemonSetStatus(
            current_number_scheduled=current,
            number_misscheduled=misplaced,
            desired_number_scheduled=desired,
            number_ready=ready,
            observed_generation=daemon.metadata.generation,
            updated_number_scheduled=updated or None,
            number_available=available or None,
            number_unavailable=desired - available or None,
            collision_count=collisions,
            conditions=daemon.status.conditions,
        )
        if status != daemon.status:
            with suppress(NotFoundError):
                await self._client.update_status(replace(daemon, status=status))

    def _next(self, daemon: DaemonSet, pods: Sequence[Pod]) -> Result:
        seconds = daemon.spec.min_ready_seconds or 0
        waits = [wait for pod in pods if (wait := available_in(pod, seconds, self.clock.now()))]
        return RequeueAfter(min(waits) + timedelta(milliseconds=1)) if waits else DONE


def _is_rolling(daemon: DaemonSet) -> bool:
    strategy = daemon.spec.update_strategy
    return strategy is None or strategy.type in ("", "RollingUpdate")


def _surge_allowed(daemon: DaemonSet) -> bool:
    return _is_rolling(daemon) and rolling.limits(daemon, 100)[0] > 0


def _all_but_oldest(pods: Sequence[Pod]) -> list[Pod]:
    return sorted(
        pods,
        key=lambda pod: (
            not pod.spec.node_name,
            pod.metadata.creation_timestamp or _EPOCH,
            pod.metadata.name,
        ),
    )[1:]
