"""The probes of every pod on the node, and their results by container.

A result belongs to a container id: a new container begins alive, not ready and not started. After
a restart of the kubelet, a container that runs on keeps what the API says of it until it is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tiphys.api.core.v1 import Pod, Probe
from tiphys.base.clock import Clock
from tiphys.base.metrics import Registry
from tiphys.client import EventRecorder
from tiphys.kubelet.cri.client import CRIClient
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod
from tiphys.kubelet.pod import AnyContainer, PodUID, field_path, is_sidecar, uid_of
from tiphys.kubelet.pods.actions import ProbeView
from tiphys.kubelet.probes.outcome import Outcome, Verdict
from tiphys.kubelet.probes.prober import ask
from tiphys.kubelet.probes.worker import ProbeType, ProbeWorker
from tiphys.kubelet.status.manager import Spawn

# Exposed on its own path, /metrics/probes, as it has a series for every container.
PROBE_REGISTRY: Final = Registry()
PROBES: Final = PROBE_REGISTRY.counter(
    "prober_probe_total",
    "Cumulative number of a liveness, readiness or startup probe for a container by result.",
    ("probe_type", "result", "container", "pod", "namespace", "pod_uid"),
)


@dataclass(slots=True)
class _Probed:
    pod: Pod
    runtime: RuntimePod
    host_ip: str
    workers: list[ProbeWorker] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    results: dict[tuple[str, ProbeType], bool] = field(default_factory=dict)


class ProbeManager:
    """Starts and ends the probes of pods; `on_result(uid)` is called when a result changes."""

    def __init__(
        self,
        runtime: CRIClient,
        recorder: EventRecorder,
        clock: Clock,
        spawn: Spawn,
        on_result: Callable[[PodUID], None],
    ) -> None:
        self._runtime = runtime
        self._recorder = recorder
        self._clock = clock
        self._spawn = spawn
        self._on_result = on_result
        self._pods: dict[PodUID, _Probed] = {}

    def observe(self, pod: Pod, runtime: RuntimePod, host_ip: str) -> None:
        """The pod's containers as they are now; the first call for a pod starts its probes."""
        uid = uid_of(pod)
        probed = self._pods.get(uid)
        if probed is None:
            probed = self._start(pod, runtime, host_ip)
        probed.runtime = runtime
        for worker in probed.workers:
            worker.observe(runtime.container(worker.container.name))
        alive = {container.id for container in runtime.containers}
        for key in [key for key in probed.results if key[0] not in alive]:
            del probed.results[key]

    def stop_liveness(self, uid: PodUID) -> None:
        """The pod is terminating: nothing may be restarted any more, readiness still counts."""
        for worker in self._pods[uid].workers if uid in self._pods else ():
            worker.stop()

    def remove(self, uid: PodUID) -> None:
        """End the probes of a pod."""
        probed = self._pods.pop(uid, None)
        for task in probed.tasks if probed else ():
            task.cancel()

    def ready(self, pod: Pod, container: RuntimeContainer) -> bool:
        """Whether a running container is ready: by its probe, or because it has none."""
        return self._result(pod, container, ProbeType.READINESS, default=False)

    def started(self, pod: Pod, container: RuntimeContainer) -> bool:
        """Whether a running container has started: by its startup probe, or because it has none."""
        return self._result(pod, container, ProbeType.STARTUP, default=False)

    def view(self, pod: Pod) -> ProbeView:
        """The results that decide about restarts."""
        probed = self._pods.get(uid_of(pod))
        results = probed.results if probed else {}
        return ProbeView(
            liveness_failed=frozenset(
                key[0] for key, good in results.items() if key[1] is ProbeType.LIVENESS and not good
            ),
            startup_failed=frozenset(
                key[0] for key, good in results.items() if key[1] is ProbeType.STARTUP and not good
            ),
            started=lambda container: self.started(pod, container),
        )

    def _start(self, pod: Pod, runtime: RuntimePod, host_ip: str) -> _Probed:
        uid = uid_of(pod)
        probed = _Probed(pod, runtime, host_ip)
        self._pods[uid] = probed
        self._remember(probed)
        for container, kind, probe in _probes(pod):
            worker = ProbeWorker(
                pod=pod,
                container=container,
                kind=kind,
                probe=probe,
                clock=self._clock,
                ask=lambda probe, container, current: self._ask(probed, probe, container, current),
                settle=lambda kind, current, good: self._settle(probed, kind, current, good),
                report=lambda kind, container, outcome: self._report(pod, kind, container, outcome),
                started=lambda current: self.started(pod, current),
            )
            probed.workers.append(worker)
            name = f"{kind.value.lower()} probe {pod.metadata.name}/{container.name}"
            probed.tasks.append(self._spawn(worker.run, name=name))
        return probed

    def _remember(self, probed: _Probed) -> None:
        """Take over what the API says of containers that were running before this kubelet."""
        status = probed.pod.status
        for known in (*status.container_statuses, *status.init_container_statuses):
            identity = known.container_id.partition("://")[2]
            current = probed.runtime.container(known.name)
            if current is None or current.id != identity or not current.running:
                continue
            if known.ready:
                probed.results[identity, ProbeType.READINESS] = True
            if known.started:
                probed.results[identity, ProbeType.STARTUP] = True

    def _result(self, pod: Pod, container: RuntimeContainer, kind: ProbeType, *, default: bool) -> bool:
        if not _has_probe(pod, container.name, kind):
            return True
        probed = self._pods.get(uid_of(pod))
        return probed.results.get((container.id, kind), default) if probed else default

    async def _ask(self, probed: _Probed, probe: Probe, container: AnyContainer, current: RuntimeContainer) -> Outcome:
        sandbox = probed.runtime.sandbox
        address = (
            probed.host_ip if probed.pod.spec.host_network else (sandbox.ips[0] if sandbox and sandbox.ips else "")
        )
        return await ask(self._runtime, probe, container, current.id, address)

    def _settle(self, probed: _Probed, kind: ProbeType, current: RuntimeContainer, good: bool) -> None:
        key = (current.id, kind)
        if probed.results.get(key) == good:
            return
        probed.results[key] = good
        if kind is ProbeType.STARTUP and good:
            for worker in probed.workers:
                if worker.container.name == current.name:
                    worker.poke()
        self._on_result(uid_of(probed.pod))

    def _report(self, pod: Pod, kind: ProbeType, container: AnyContainer, outcome: Outcome) -> None:
        if outcome.verdict is Verdict.ERROR:
            message = f"{kind.value} probe errored and resulted in unknown state: {outcome.output}"
        else:
            message = f"{kind.value} probe failed: {outcome.output}"
        result = "failed" if outcome.verdict is Verdict.FAILURE else "unknown"
        meta = pod.metadata
        PROBES.labels(kind.value, result, container.name, meta.name, meta.namespace, meta.uid).inc()
        self._recorder.event(pod, "Warning", "Unhealthy", message, field_path=field_path(pod, container))


def _probes(pod: Pod) -> Iterator[tuple[AnyContainer, ProbeType, Probe]]:
    for container in (*(c for c in pod.spec.init_containers if is_sidecar(c)), *pod.spec.containers):
        if container.startup_probe:
            yield container, ProbeType.STARTUP, container.startup_probe
        if container.liveness_probe:
            yield container, ProbeType.LIVENESS, container.liveness_probe
        if container.readiness_probe:
            yield container, ProbeType.READINESS, container.readiness_probe


def _has_probe(pod: Pod, name: str, kind: ProbeType) -> bool:
    return any(container.name == name and found is kind for container, found, _ in _probes(pod))
