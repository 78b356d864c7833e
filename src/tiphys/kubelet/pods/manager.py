"""The pods of the node: who has a worker, what the API shows of it, and what has no owner any more.

```
 API informer ──┐                         ┌─► PodWorker (uid)
 static files ──┴─► PodManager (admission)┼─► PodWorker (uid)
 runtime events ────────── wake ──────────┴─► orphans: stopped and removed once the sources are known
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final, Protocol

from tiphys.api.core.v1 import Pod
from tiphys.base.log import get_logger
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.pod import PodUID, describe, full_name, is_mirror, is_static, is_terminal, uid_of
from tiphys.kubelet.pods.admission import admit
from tiphys.kubelet.pods.cleanup import ORPHANS_CLEANED, ORPHANS_LEFT, remove_directories, stale_directories, stale_logs
from tiphys.kubelet.pods.kill import kill_pod
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.pods.starts import count_restart
from tiphys.kubelet.pods.worker import PodWorker
from tiphys.kubelet.resize.feasibility import retry_order
from tiphys.kubelet.status.manager import Spawn
from tiphys.kubelet.status.pod_status import Verdict

log = get_logger(__name__)

CRITICAL_RETRY: Final = 1.0  # seconds


class MirrorKeeper(Protocol):
    """Keeps a static pod's shadow in the API."""

    def sync(self, name: str) -> None: ...


class PodManager:
    """Keeps one worker a pod."""

    def __init__(self, services: PodServices, spawn: Spawn) -> None:
        self._services = services
        self._spawn = spawn
        self.workers: dict[PodUID, PodWorker] = {}
        self.mirrors: dict[str, Pod] = {}  # by full name
        self.node_labels: Mapping[str, str] = {}
        self.mirror_keeper: MirrorKeeper | None = None
        self._waiting_static: dict[str, Pod] = {}  # a static pod's next version, until the last one is gone
        self._orphans: set[PodUID] = set()

    # -- the API's pods ------------------------------------------------------------------------------

    def api_added(self, pod: Pod) -> None:
        if is_mirror(pod):
            self._mirror_changed(pod)
            return
        self.add(pod)

    def api_updated(self, old: Pod, pod: Pod) -> None:
        if is_mirror(pod):
            self._mirror_changed(pod)
            return
        worker = self.workers.get(uid_of(pod))
        if worker is None:
            self.add(pod)
        else:
            worker.update(pod)

    def api_removed(self, pod: Pod) -> None:
        if is_mirror(pod):
            self.mirrors.pop(full_name(pod), None)
            if self.mirror_keeper is not None:
                self.mirror_keeper.sync(full_name(pod))
            return
        self.remove(uid_of(pod))

    def api_pod(self, pod: Pod) -> Pod | None:
        """What the API has of a pod: the pod itself, or a static pod's mirror when there is one."""
        if not is_static(pod):
            worker = self.workers.get(uid_of(pod))
            return worker.pod if worker is not None else pod
        return self.mirrors.get(full_name(pod))

    def _mirror_changed(self, mirror: Pod) -> None:
        name = full_name(mirror)
        self.mirrors[name] = mirror
        worker = self.static_worker(name)
        if worker is not None:
            self._services.status.observe(worker.uid, mirror)
        if self.mirror_keeper is not None:
            self.mirror_keeper.sync(name)

    # -- pods of any source --------------------------------------------------------------------------

    def add(self, pod: Pod) -> None:
        """Take on a pod; it is refused when the node has no room for it."""
        uid = uid_of(pod)
        # A manifest that was taken away and put back is the same pod: the one that ends makes way for it first.
        if uid in self.workers and not (is_static(pod) and self.workers[uid].removed):
            self.workers[uid].update(pod)
            return
        if is_static(pod) and self.static_worker(full_name(pod)) is not None:
            self._waiting_static[full_name(pod)] = pod
            return
        verdict, admission = None, None
        if pod.status.start_time is None and not is_terminal(pod) and pod.metadata.deletion_timestamp is None:
            verdict = admit(
                pod,
                self._bound(),
                self._services.node.allocatable,
                self.node_labels,
                self._services.flags.node_name,
            )
            admission = partial(self._allocate, pod)
        if verdict is not None:
            self._services.refused(pod, verdict)
        worker = PodWorker(self._services, pod, rejected=verdict, admission=None if verdict else admission)
        self.workers[uid] = worker
        self._spawn(lambda: self._work(worker), name=f"pod {full_name(pod)}")
        if is_static(pod) and self.mirror_keeper is not None:
            self.mirror_keeper.sync(full_name(pod))

    async def _allocate(self, pod: Pod) -> Verdict | None:
        """Give the pod's containers their devices and CPUs; why there is not enough, or None."""
        active = [uid_of(other) for other in self.active()]
        return await self._services.containers.admit(pod, active)

    def remove(self, uid: PodUID) -> None:
        worker = self.workers.get(uid)
        if worker is not None:
            worker.remove()

    def static_worker(self, name: str) -> PodWorker | None:
        return next((w for w in self.workers.values() if is_static(w.pod) and full_name(w.pod) == name), None)

    def active(self) -> list[Pod]:
        """Pods that use the node, or will: all but those that have ended and those it did not take."""
        return [worker.pod for worker in self.workers.values() if self._is_active(worker)]

    def _is_active(self, worker: PodWorker) -> bool:
        # A refused pod takes nothing from the moment it is refused; its status says so a little later.
        return not worker.refused and not is_terminal(self._services.status.with_status(worker.pod))

    def _bound(self) -> list[Pod]:
        """The active pods whose room is theirs. One deleted by force has none: the scheduler has given it away."""
        return [worker.pod for worker in self.workers.values() if not worker.removed and self._is_active(worker)]

    def others(self, uid: PodUID) -> list[Pod]:
        """The active pods but this one, with the resources they were granted."""
        return [pod for pod in self.active() if uid_of(pod) != uid]

    def running(self) -> Iterator[tuple[PodUID, str, str]]:
        """(pod, name, id) of every container that runs."""
        for uid, worker in list(self.workers.items()):
            yield from (
                (uid, container.name, container.id) for container in worker.runtime.containers if container.running
            )

    def retry_resizes(self) -> None:
        """Room may have become free: whoever waits for it looks again, the most important first."""
        waiting = [worker for worker in self.workers.values() if worker.resize.pending is not None]
        for worker in sorted(waiting, key=lambda worker: retry_order(worker.pod, worker.resize.pending_since)):
            worker.wake()

    def pods(self) -> list[Pod]:
        """Every pod with its newest status."""
        return [self._services.status.with_status(worker.pod) for worker in self.workers.values()]

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """The worker of the pod by this name; a newer pod of the name comes before one that is ending."""
        found = [
            worker
            for worker in self.workers.values()
            if worker.pod.metadata.name == name and worker.pod.metadata.namespace == namespace
        ]
        return min(found, key=lambda worker: worker.pod.metadata.deletion_timestamp is not None, default=None)

    def wake(self, uid: PodUID) -> None:
        """Something of the pod has changed on the node."""
        worker = self.workers.get(uid)
        if worker is not None:
            worker.wake()

    def objects_changed(self, uid: PodUID) -> None:
        worker = self.workers.get(uid)
        if worker is not None:
            worker.objects_changed()

    async def _work(self, worker: PodWorker) -> None:
        while True:
            try:
                await worker.run()
                break
            except Exception:
                # One pod's bug must not take the node's other pods with it.
                log.exception("the worker of pod %s failed", describe(worker.pod))
                await self._services.clock.sleep(CRITICAL_RETRY)
        del self.workers[worker.uid]
        if is_static(worker.pod):
            self._next_static(worker)

    def _next_static(self, ended: PodWorker) -> None:
        """A static pod has ended: its next version may start, or its mirror must go."""
        name = full_name(ended.pod)
        following = self._waiting_static.pop(name, None)
        if following is not None:
            if uid_of(following) == ended.uid:
                count_restart(following)
            self.add(following)
        elif self.mirror_keeper is not None:
            self.mirror_keeper.sync(name)

    def forget_waiting(self, name: str) -> None:
        """A static pod's file is gone before its turn came."""
        self._waiting_static.pop(name, None)

    # -- what nobody owns ----------------------------------------------------------------------------

    async def clean_orphans(self, in_runtime: set[PodUID]) -> None:
        """Stop and remove what the node holds of pods that no source knows. Only once the sources are known."""
        ORPHANS_CLEANED.labels().set(0)
        ORPHANS_LEFT.labels().set(0)
        known = set(self.workers)
        paths, cgroups = self._services.paths, self._services.cgroups
        on_disk = await asyncio.to_thread(stale_directories, paths, known)
        with_cgroup = await asyncio.to_thread(cgroups.pods)
        # Known before: it may be removing itself. Known now: it may have come while this looked.
        for uid in (in_runtime | on_disk | with_cgroup) - known - set(self.workers) - self._orphans:
            self._orphans.add(uid)
            self._spawn(partial(self._remove_orphan, uid), name=f"orphan {uid}")

    async def _clean_volumes(self, uid: PodUID) -> None:
        """Take away an orphan's volumes. Raises OSError when something resists."""
        had_any = await asyncio.to_thread(self._services.paths.volumes(uid).is_dir)
        try:
            await self._services.volumes.tear_down(uid)
        except OSError:
            ORPHANS_LEFT.labels().inc()
            raise
        if had_any:
            ORPHANS_CLEANED.labels().inc()

    async def _remove_orphan(self, uid: PodUID) -> None:
        services = self._services
        try:
            runtime = await services.runtime.pod(uid)
            log.info("removing the remains of pod %s_%s(%s)", runtime.name, runtime.namespace, uid)
            await kill_pod(services, None, runtime)
            await self._clean_volumes(uid)
            for container in runtime.containers:
                await services.runtime.remove_container(container.id)
            for sandbox in runtime.sandboxes:
                await services.runtime.remove_sandbox(sandbox.id)
            await asyncio.to_thread(services.cgroups.remove_pod, uid)
            logs = await asyncio.to_thread(stale_logs, services.paths, uid)
            await asyncio.to_thread(remove_directories, services.paths.pod(uid), logs)
        except (CRIError, OSError) as error:
            log.warning("removing the remains of pod %s failed, trying again: %s", uid, error)
        finally:
            self._orphans.discard(uid)
