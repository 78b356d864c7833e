"""One pod, from first sight to last trace.

```
 SYNC ───────────► TERMINATING ──────────► TERMINATED ──────────► (gone)
  start, restart    stop containers,        volumes, cgroup and     sandbox, logs and files
  and watch         then the sandbox        terminal status done    removed; API object deleted
     │ deleted, evicted, finished, past its deadline ▲
     └────────────────────────────────────────────────┘
```
The worker is level-driven: a wake-up only says that something may have changed. What to do is
computed from the spec and a fresh reading of the runtime (`actions`), done, and looked at again.
Nothing polls: the worker sleeps until it is woken or until a time that it knows of (a back-off, a
deadline, a token's renewal).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from enum import Enum
from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.api.cri import api_pb2 as cri
from tiphys.base.log import get_logger
from tiphys.kubelet.containers.errors import IMAGE_TROUBLE, StartError
from tiphys.kubelet.containers.starter import Place, start_container
from tiphys.kubelet.containers.termination import termination_message
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod
from tiphys.kubelet.dra.manager import PrepareError
from tiphys.kubelet.pod import (
    AnyContainer,
    container_named,
    describe,
    grace_period,
    is_static,
    is_terminal,
    uid_of,
)
from tiphys.kubelet.pods.actions import PodActions, compute_pod_actions
from tiphys.kubelet.pods.cleanup import collect_dead, remove_traces
from tiphys.kubelet.pods.durations import WorkerTimes
from tiphys.kubelet.pods.holds import Holds
from tiphys.kubelet.pods.kill import kill_for_action, kill_pod
from tiphys.kubelet.pods.restart import restart_trigger
from tiphys.kubelet.pods.restart_all import is_restarting, restart_all, restarted
from tiphys.kubelet.pods.sandbox import SandboxError, make_sandbox, sandbox_config_of, users_of
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.pods.starts import count_container_start, count_failed_container_start
from tiphys.kubelet.pods.terminations import count_terminations
from tiphys.kubelet.pods.volumes import CurrentVolumes
from tiphys.kubelet.resize.pod_resize import PodResize
from tiphys.kubelet.status.containers import CREATING, INITIALIZING, ContainerFacts, Waiting
from tiphys.kubelet.status.pod_status import StatusInputs, Verdict, make_pod_status, rejected_status
from tiphys.kubelet.volumes.manager import MountError, PodVolumes
from tiphys.kubelet.volumes.plugin import Mounted
from tiphys.kubelet.waiting import unless, wait_event
from tiphys.machinery.errors import StatusError

log = get_logger(__name__)

FIRST_RETRY: Final = 0.5  # seconds, after a failure; doubles
LONGEST_RETRY: Final = 10.0  # of most failures: a runtime that was away is back before long
LONGEST_MOUNT_RETRY: Final = 122.0  # what upstream lets failing mounts wait at most
DEADLINE_MESSAGE: Final = "Pod was active on the node longer than the specified deadline"
DELETE_RETRY: Final = 30.0  # for a pod that the API was told to forget and still has
START_RETRY: Final = 10.0  # for a start that failed without saying when to try again


class Phase(Enum):
    SYNC = "sync"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    GONE = "gone"


class PodWorker:
    """Drives one pod. `update`, `remove`, `evict` and `wake` may be called at any time, from the loop."""

    def __init__(
        self,
        services: PodServices,
        pod: Pod,
        *,
        rejected: Verdict | None = None,
        admission: Callable[[], Awaitable[Verdict | None]] | None = None,
    ) -> None:
        """`admission`: what must be asked before the pod is begun with, and may take its time."""
        self.s = services
        self._admission = admission
        self.uid = uid_of(pod)
        self.resize = PodResize(services, pod)
        self.pod = self.resize.seen(pod)  # with the resources it was granted
        self.phase = Phase.TERMINATING if rejected or is_terminal(pod) else Phase.SYNC
        self.runtime = RuntimePod(uid=self.uid)
        self._began = services.clock.now()
        self._times = WorkerTimes(pod, services.clock)
        self._rejected = rejected
        self._verdict: Verdict | None = rejected
        self.removed = False  # the source has it no more
        self._grace: float | None = None
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()  # set once the pod must end: interrupts a start that takes long
        self._hurry = asyncio.Event()  # set when the grace period has become shorter
        self._dirty = True
        self._holds = Holds(services, self._began)
        self._volumes = CurrentVolumes(services)
        self._sandbox_config: cri.PodSandboxConfig | None = None
        self._retry = FIRST_RETRY
        self._delete_again: float | None = None  # when the API is asked once more to forget the pod (monotonic)
        self._only_sandbox = ""  # the id of the pod's sandbox, where it is known to have no other
        self._looked = False  # the runtime's state was read before
        self._restarting = is_restarting(pod)  # all containers are on the way to a new start
        if pod.metadata.deletion_timestamp is not None:
            self._begin_stop()

    # -- told from outside ---------------------------------------------------------------------------

    def wake(self) -> None:
        """Something of the pod may have changed on the node."""
        self._dirty = True
        self._wake.set()

    def objects_changed(self) -> None:
        """A ConfigMap or Secret of the pod has changed: bring the volumes up to date, try held starts again."""
        self._volumes.look_now()
        self._holds.keep_back_offs()
        self._wake.set()

    def update(self, pod: Pod) -> None:
        """The source has a newer version of the pod."""
        before, self.pod = self.pod, self.resize.seen(pod)
        self.s.status.observe(self.uid, self.s.api_pod(pod) or pod)
        self._times.asked()
        self._times.observed(pod, self.runtime, self.s.images.pulling(pod.metadata.uid))
        if pod.metadata.deletion_timestamp is not None:
            grace = grace_period(pod).total_seconds()
            if self._stop.is_set() and (self._grace is None or grace < self._grace):
                self._hurry.set()
            self._grace = grace
            self._begin_stop()
        if before.metadata.annotations != pod.metadata.annotations or before.metadata.labels != pod.metadata.labels:
            self._volumes.look_now()  # the downward API shows them
        self._wake.set()

    def remove(self) -> None:
        """The source does not have the pod any more."""
        self.removed = True
        self._begin_stop()
        self._wake.set()

    def evict(self, verdict: Verdict, grace: float | None = None) -> bool:
        """End the pod as failed, by a decision of the node; False when it was to end by another before."""
        taken = self._verdict is None
        if taken:
            self._verdict = verdict
        self._grace = grace
        self._begin_stop()
        self._wake.set()
        return taken

    @property
    def refused(self) -> bool:
        """Whether the node did not take the pod."""
        return self._rejected is not None

    @property
    def mounted(self) -> Mapping[str, Mounted]:
        """The pod's volumes that are ready, by name."""
        return self._volumes.ready.mounted if self._volumes.ready is not None else {}

    def waiting_reason(self, name: str) -> str:
        """Why a container has not started, as a client is told who asks for its log."""
        waiting = self._holds.waiting().get(name)
        if waiting is not None:
            return IMAGE_TROUBLE.get(waiting.reason, waiting.reason)
        return INITIALIZING if self.pod.spec.init_containers else CREATING

    # -- the loop ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until nothing of the pod is left."""
        if self._admission is not None:
            await self._admit(self._admission)
            self._admission = None
        while not self._is_gone():
            self._wake.clear()
            self._times.begin()
            try:
                pause = await self._step()
                self._retry = FIRST_RETRY
            except InterruptedError:
                continue  # the pod is to end: begin with that at once
            except (CRIError, StatusError, OSError, SandboxError, MountError, PrepareError) as error:
                log.warning("pod %s: %s", describe(self.pod), error)
                pause = self._retry
                self._retry = min(self._retry * 2, longest_retry(error))
                self._dirty = True
            if pause != 0.0:
                self._times.end(ending=self.phase is not Phase.SYNC)
            if not self._is_gone():
                await wait_event(self._wake, self.s.clock, pause)

    async def _admit(self, admission: Callable[[], Awaitable[Verdict | None]]) -> None:
        verdict = await admission()
        if verdict is not None:
            self.s.refused(self.pod, verdict)
            self._rejected = self._verdict = verdict
            self.phase = Phase.TERMINATING

    def _is_gone(self) -> bool:
        return self.phase is Phase.GONE

    async def _step(self) -> float | None:
        """Do what is due; returns in how many seconds to look again (None: when woken)."""
        if self._dirty:
            await self._refresh()
        if self.phase is Phase.SYNC and self._stop.is_set():
            self.phase = Phase.TERMINATING
        if self.phase is Phase.SYNC:
            return await self._sync()
        if self.phase is Phase.TERMINATING:
            return await self._terminate()
        return await self._finish()

    async def _refresh(self) -> None:
        """Read the runtime's state of the pod."""
        self._dirty = False
        runtime = await self._read()
        fresh = {c.id for c in runtime.containers if c.exited} - {c.id for c in self.runtime.containers if c.exited}
        if self._looked:  # what ended under a kubelet before this one was counted by it
            count_terminations(self.pod, (c for c in runtime.containers if c.id in fresh))
        self._looked = True
        if fresh:
            runtime = await asyncio.to_thread(_with_messages, runtime)
        else:
            known = {c.id: c for c in self.runtime.containers if c.exited}
            runtime = replace(runtime, containers=tuple(known.get(c.id, c) for c in runtime.containers))
        self.runtime = runtime
        if self.phase is not Phase.TERMINATED:
            self.s.probes.observe(self.s.status.with_status(self.pod), runtime, self._host_ip())

    async def _read(self) -> RuntimePod:
        """What the runtime has of the pod. Nobody else makes sandboxes of it: an only one is asked for by its name."""
        only, self._only_sandbox = self._only_sandbox, ""
        runtime = await self.s.runtime.pod_in(self.uid, only) if only else None
        if runtime is None:
            runtime = await self.s.runtime.pod(self.uid)
        if len(runtime.sandboxes) == 1:
            self._only_sandbox = runtime.sandboxes[0].id
        return runtime

    # -- running -------------------------------------------------------------------------------------

    async def _sync(self) -> float | None:
        self.pod = self.resize.consider()
        pod = self.s.status.with_status(self.pod)
        trigger = restart_trigger(pod, self.runtime)
        self._restarting = trigger is not None or (self._restarting and not restarted(pod, self.runtime))
        self.s.objects.register(self.pod)
        overdue = self._overdue(pod)
        if overdue is not None and overdue <= 0:
            self.evict(Verdict(reason="DeadlineExceeded", message=DEADLINE_MESSAGE))
            return 0.0
        self._report(pod)
        if self._finished(pod):
            self._begin_stop()
            return 0.0
        pod = self.s.status.with_status(self.pod)
        acted = await (self._act(pod) if trigger is None else self._restart_all(pod, trigger))
        if acted:
            self._dirty = True
            return 0.0
        waits = [*self._holds.left(), *self._volumes.left()]
        waits += [overdue] if overdue is not None else []
        waits += [self.resize.retry_at - self.s.clock.monotonic()] if self.resize.retry_at is not None else []
        waits.append(self.s.config.sync_frequency.total_seconds())
        return max(0.0, min(waits))

    async def _restart_all(self, pod: Pod, trigger: RuntimeContainer) -> bool:
        """A step of the restart that the end of `trigger` asks for, unless its time has not come."""
        container = container_named(pod, trigger.name)
        if not self.runtime.running and container is not None and self._held(pod, container):
            return False
        await restart_all(self.s, pod, self.runtime, trigger)
        return True

    async def _act(self, pod: Pod) -> bool:
        """One round of actions; True when anything was done, so that the state must be read again."""
        resized = await self.resize.apply(pod, self.runtime)
        view = replace(self.s.probes.view(pod), resized=self.resize.restarts(pod, self.runtime))
        actions = compute_pod_actions(pod, self.runtime, view)
        if actions.create_sandbox and self.runtime.sandboxes:
            self.s.event(pod, "Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        if actions.kill_pod and not self.runtime.empty and (actions.create_sandbox or self.runtime.running):
            await kill_pod(self.s, pod, self.runtime)
            if not actions.create_sandbox:
                return True
        for kill in actions.kill:
            await kill_for_action(self.s, pod, kill)
        volumes = asyncio.ensure_future(self._volumes.current(pod, self._pod_ips(pod), self._retry))
        try:
            made = await self._sandbox(pod, actions)
            ready = await unless(self._stop, volumes)
        finally:
            volumes.cancel()
            await asyncio.gather(volumes, return_exceptions=True)
        if made:
            # Its addresses are only known from a fresh reading; the containers follow in the next round.
            return True
        started = False
        for container in actions.starts:
            started = await self._start(pod, container, actions, ready) or started
        await collect_dead(self.s, pod, self.runtime)
        return started or resized or bool(actions.kill)

    async def _sandbox(self, pod: Pod, actions: PodActions) -> bool:
        """Make the sandbox when one is wanted; True when one was made."""
        if actions.create_sandbox:
            only = not self.runtime.sandboxes
            self._only_sandbox = ""
            self._sandbox_config, made = await make_sandbox(self.s, pod, actions.attempt)
            self._only_sandbox = made if only else ""
            self._holds.clear()
            return True
        return False

    async def _start(self, pod: Pod, container: AnyContainer, actions: PodActions, volumes: PodVolumes) -> bool:
        """Start one container unless its time has not come; True when it was tried."""
        if self._held(pod, container):
            return False
        if self._sandbox_config is None:
            users = await users_of(self.s, pod)
            self._sandbox_config = sandbox_config_of(self.s, pod, actions.attempt, users)
        place = Place(
            sandbox_id=actions.sandbox_id,
            sandbox_config=self._sandbox_config,
            pod_ips=self._pod_ips(pod),
            volumes=volumes,
        )
        self._holds.drop(container.name)
        self.resize.started(pod, container.name)
        count_container_start(pod, container.name)
        try:
            await unless(self._stop, start_container(self.s, pod, container, self.runtime, place))
        except StartError as error:
            count_failed_container_start(pod, container.name, error.reason)
            waiting = Waiting(error.reason, error.message)
            self._holds.add(container.name, waiting, error.retry_after or START_RETRY)
            self._report(self.s.status.with_status(self.pod))
        return True

    def _held(self, pod: Pod, container: AnyContainer) -> bool:
        """Whether the start must wait: for an earlier failure, or because the container keeps ending."""
        if self._holds.active(container.name):
            return True
        held = self._holds.back_off(pod, container, self.runtime)
        if held:
            self._report(self.s.status.with_status(self.pod))
        return held

    # -- ending --------------------------------------------------------------------------------------

    def _begin_stop(self) -> None:
        self._stop.set()

    async def _terminate(self) -> float | None:
        pod = self.s.status.with_status(self.pod)
        if self._rejected is None:
            if not self.removed:
                self._report(pod)
            self.s.probes.stop_liveness(self.uid)
            self._hurry.clear()
            try:
                await unless(self._hurry, self._reporting(kill_pod(self.s, pod, self.runtime, grace=self._grace)))
            except InterruptedError:
                self._dirty = True
                return 0.0
            self.s.probes.remove(self.uid)
            await self._refresh()
            if self.runtime.running or self.runtime.ready_sandbox is not None:
                self._dirty = True
                return FIRST_RETRY
        await self.s.volumes.tear_down(self.uid)
        await asyncio.to_thread(self.s.cgroups.remove_pod, self.uid)
        self.s.containers.release(self.uid)
        await self.s.claims.unprepare(self.uid)
        self.phase = Phase.TERMINATED
        self.s.room.changed()
        if not self.removed:
            self._report(self.s.status.with_status(self.pod), stopped=True)
        self.s.objects.unregister(self.uid)
        return 0.0

    async def _reporting(self, ending: Awaitable[None]) -> None:
        """Wait for the pod's end. Its readiness still counts until then: endpoints that drain serve while it holds."""
        end = asyncio.ensure_future(ending)
        try:
            while not end.done():
                self._wake.clear()
                woken = asyncio.ensure_future(self._wake.wait())
                await asyncio.wait((end, woken), return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                if not end.done() and not self.removed:
                    self._report(self.s.status.with_status(self.pod))
        finally:
            end.cancel()
            await asyncio.wait((end,))
        await end

    async def _finish(self) -> float | None:
        """The pod has ended: keep its remains for logs until it is deleted, then remove every trace."""
        if self.removed:
            await remove_traces(self.s, self.pod, self.runtime)
            self.s.forget(self.uid)
            self.phase = Phase.GONE
            return None
        deleting = self.pod.metadata.deletion_timestamp is not None
        if not deleting or is_static(self.pod):
            return None
        now = self.s.clock.monotonic()
        if self._delete_again is None:
            await remove_traces(self.s, self.pod, self.runtime)
            self.runtime = RuntimePod(uid=self.uid)
            await self.s.status.flushed(self.uid)
        if self._delete_again is None or self._delete_again <= now:
            await self.s.delete_api_pod(self.pod)
            self._delete_again = now + DELETE_RETRY
        return max(0.0, self._delete_again - now)

    # -- looking -------------------------------------------------------------------------------------

    def _report(self, pod: Pod, *, stopped: bool = False) -> None:
        """Tell the status manager how the pod is now."""
        now = self.s.clock.now()
        if self._rejected is not None:
            status = rejected_status(pod, self._rejected, now)
        else:
            facts = ContainerFacts(
                runtime_name=self.s.node.runtime_name,
                waiting=self._holds.waiting(),
                ready=lambda container: self.s.probes.ready(pod, container),
                started=lambda container: self.s.probes.started(pod, container),
                resources=self.resize.in_force,
                restarting=self._restarting,
            )
            verdict = self._verdict if stopped or self._verdict is None else None
            status = make_pod_status(
                pod,
                self.runtime,
                StatusInputs(
                    now=now,
                    host_ips=self.s.node.host_ips,
                    containers=facts,
                    verdict=verdict,
                    stopped=stopped,
                    resources=self.resize.pod_in_force,
                    resize=self.resize.conditions(),
                    restarting=self._restarting,
                ),
            )
        self._times.phase(status.phase)
        self.s.status.set(self.uid, self.s.api_pod(self.pod), status)

    def _finished(self, pod: Pod) -> bool:
        """Whether the pod has run to its end by itself."""
        return is_terminal(self.s.status.with_status(pod))

    def _overdue(self, pod: Pod) -> float | None:
        """Seconds until the pod's active deadline; None without one."""
        limit, began = pod.spec.active_deadline_seconds, pod.status.start_time
        if limit is None or began is None:
            return None
        return (began + timedelta(seconds=limit) - self.s.clock.now()).total_seconds()

    def _host_ip(self) -> str:
        return self.s.node.host_ips[0] if self.s.node.host_ips else ""

    def _pod_ips(self, pod: Pod) -> tuple[str, ...]:
        if pod.spec.host_network:
            return self.s.node.host_ips
        return self.runtime.sandbox.ips if self.runtime.sandbox else ()


def longest_retry(error: Exception) -> float:
    """Seconds that a pod waits at most after failing like this again and again."""
    return LONGEST_MOUNT_RETRY if isinstance(error, MountError) else LONGEST_RETRY


def _with_messages(runtime: RuntimePod) -> RuntimePod:
    """The state with the last words of what has ended. Reads files."""
    return replace(
        runtime,
        containers=tuple(replace(c, message=termination_message(c)) if c.exited else c for c in runtime.containers),
    )
