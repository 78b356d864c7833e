"""The kubelet: what runs on a node, in the order in which it starts.

1. meet the runtime, measure the machine, make the cgroups;
2. relist the runtime, so that what runs already is known before anything is decided;
3. static pods start at once, without the API; so does the server;
4. register the Node, keep its status and lease;
5. take the pods that the API binds to this node, each into its own worker;
6. once every source is known, remove what belongs to nobody.

Nothing here decides: it makes the parts, ties them together, and keeps them running.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from tiphys.api.core.v1 import ConfigMap, Node, Pod, Secret, Service
from tiphys.api.cri import api_pb2 as cri
from tiphys.api.storage.v1 import CSIDriver
from tiphys.base.clock import Clock, SystemClock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client import Client, EventRecorder, Informers, WorkQueue
from tiphys.kubelet.backoff import Backoff
from tiphys.kubelet.cgroups.detect import detect_driver
from tiphys.kubelet.cgroups.tree import CgroupTree, Limits
from tiphys.kubelet.config import KubeletConfiguration, KubeletFlags
from tiphys.kubelet.containers.dns import Resolver, parse_resolv_conf
from tiphys.kubelet.containers.images import ImageManager
from tiphys.kubelet.cri.client import CRIClient, CRIError
from tiphys.kubelet.csi.service import CSI
from tiphys.kubelet.devices.plugins import Plugins as DevicePlugins
from tiphys.kubelet.devices.podresources import PodResources
from tiphys.kubelet.dra.drivers import Drivers as DRADrivers
from tiphys.kubelet.dra.manager import ClaimManager
from tiphys.kubelet.eviction.manager import EvictionManager
from tiphys.kubelet.gc.images import ImageCollector
from tiphys.kubelet.gc.logs import LogRotation
from tiphys.kubelet.node.addresses import default_addresses
from tiphys.kubelet.node.lease import NodeLease
from tiphys.kubelet.node.machine import Machine, read_machine
from tiphys.kubelet.node.registration import NodeRegistration
from tiphys.kubelet.node.status import Health, StatusFacts, allocatable_of, capacity_of
from tiphys.kubelet.nodeconfig import make_container_manager
from tiphys.kubelet.objects import ObjectCache
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.pleg import LifecycleEvents
from tiphys.kubelet.pod import PodUID, uid_of
from tiphys.kubelet.pods.manager import PodManager
from tiphys.kubelet.pods.services import NodeFacts, PodServices
from tiphys.kubelet.probes.manager import ProbeManager
from tiphys.kubelet.resources import cpu_shares
from tiphys.kubelet.server.app import KubeletServer
from tiphys.kubelet.sources.mirror import MirrorPods
from tiphys.kubelet.sources.static import StaticPods
from tiphys.kubelet.status.manager import StatusManager
from tiphys.kubelet.topology.machine import read_topology
from tiphys.kubelet.usernamespaces import UserNamespaces, available_ids
from tiphys.kubelet.volumes.claim import ClaimPlugin, PersistentSource
from tiphys.kubelet.volumes.config_map import ConfigMapPlugin
from tiphys.kubelet.volumes.downward_api import DownwardAPIPlugin
from tiphys.kubelet.volumes.empty_dir import EmptyDirPlugin
from tiphys.kubelet.volumes.host_path import HostPathPlugin
from tiphys.kubelet.volumes.local import LocalSource
from tiphys.kubelet.volumes.manager import VolumeManager
from tiphys.kubelet.volumes.plugin import VolumePlugin
from tiphys.kubelet.volumes.projected import ProjectedPlugin
from tiphys.kubelet.volumes.secret import SecretPlugin
from tiphys.kubelet.volumes.token import TokenManager
from tiphys.machinery.quantity import Quantity

log = get_logger(__name__)

RUNTIME_RETRY: Final = 0.1  # seconds between attempts to meet the runtime
HOUSEKEEPING: Final = 30.0


class Kubelet:
    """One node's kubelet. `run` works until cancelled; running containers outlive it."""

    def __init__(
        self,
        config: KubeletConfiguration,
        flags: KubeletFlags,
        client: Client,
        *,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.config = config
        self.flags = flags
        self.client = client
        self.clock = clock or SystemClock()
        self.ready = asyncio.Event()  # the node is registered and takes pods
        self._jitter = jitter
        self._user_ids = available_ids(config, flags)
        self._runtime_version = cri.VersionResponse()
        # The node's parts while it runs, for those who embed a kubelet.
        self.services: PodServices | None = None
        self.manager: PodManager | None = None
        self.server: KubeletServer | None = None
        self._pod_cidr: asyncio.Queue[str] = asyncio.Queue()
        self._cidr_known = False

    async def run(self) -> None:
        """Be the kubelet of this node."""
        runtime = CRIClient(self.flags.container_runtime_endpoint)
        try:
            async with Supervised(self.clock) as tasks:
                await self._run(tasks, runtime)
        finally:
            await runtime.close()

    async def _run(self, tasks: Supervised, runtime: CRIClient) -> None:
        self._runtime_version = await self._meet(runtime)
        machine = await asyncio.to_thread(read_machine, self.flags.root_dir)
        node = await asyncio.to_thread(self._measure, machine)
        cgroups = CgroupTree(detect_driver(), self.config.cgroup_root, self.config.pod_pids_limit)
        await asyncio.to_thread(cgroups.prepare, _allocatable_limits(node))
        informers = Informers(self.client, self.clock)
        recorder = EventRecorder(self.client, self.clock, "kubelet", self.flags.node_name)
        services = self._services(tasks, runtime, node, cgroups, informers, recorder)
        manager = PodManager(services, tasks.spawn)
        self.services, self.manager = services, manager
        self._late.bind(manager)
        events = LifecycleEvents(runtime, self.clock, manager.wake)
        await events.relist()

        eviction = EvictionManager(services, manager)
        registration = NodeRegistration(
            self.client,
            recorder,
            self.clock,
            self.config,
            self.flags,
            partial(self._status_facts, machine, services, events, eviction),
        )
        self._csi.bind(lambda: registration.node, registration.report_soon)
        services.containers.devices.bind(registration.report_soon)
        self._csi.other_handlers[DevicePlugins.TYPE] = services.containers.devices.plugins
        self._csi.other_handlers[DRADrivers.TYPE] = services.claims.drivers
        await self._csi.mounter.recover()
        static = self._static_pods(manager)
        mirrors = MirrorPods(
            self.client,
            WorkQueue(clock=self.clock),
            lambda name: worker.pod if (worker := manager.static_worker(name)) else None,
            manager.mirrors.get,
            lambda: registration.node,
            self.clock,
        )
        manager.mirror_keeper = mirrors
        self.server = server = KubeletServer(self.config, self.flags, services, manager, events, machine)

        def start(work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
            tasks.spawn(work, name=name, restart=True)

        start(recorder.run, "events")
        start(informers.run, "informers")
        start(services.objects.run, "object watches")
        start(events.run, "pod lifecycle events")
        start(static.run, "static pods")
        start(server.run, "server")
        start(mirrors.run, "mirror pods")
        start(services.containers.devices.run, "device plugins")
        start(partial(self._keep_cpusets, services, manager), "CPU sets")
        start(
            PodResources(self.flags.root_dir, services.containers, services.claims, manager.active).run, "pod resources"
        )
        recorder.event(registration.reference, "Normal", "Starting", "Starting kubelet.")

        pods = informers.of(Pod, field_selector=f"spec.nodeName={self.flags.node_name}")
        nodes = informers.of(Node, field_selector=f"metadata.name={self.flags.node_name}")
        registered = await registration.register()
        self._node_seen(registered, manager, registration)
        nodes.add_handler(
            on_add=lambda seen: self._node_seen(seen, manager, registration),
            on_update=lambda old, seen: self._node_seen(seen, manager, registration),
        )
        lease = NodeLease(
            self.client,
            self.flags.node_name,
            registered.metadata.uid,
            self.clock,
            self.config.node_lease_duration_seconds,
        )
        start(registration.run, "node status")
        start(partial(self._hand_on_pod_cidr, runtime, registration), "pod CIDR")
        start(lease.run, "node lease")
        start(self._csi.run, "CSI drivers")
        start(services.claims.drivers.run, "DRA drivers")
        await informers.of(Service).synced()
        pods.add_handler(manager.api_added, manager.api_updated, manager.api_removed)
        eviction.on_change = registration.report_soon
        start(eviction.run, "eviction")
        start(ImageCollector(services, manager).run, "image collection")
        start(LogRotation(services, manager).run, "log rotation")
        self.ready.set()
        log.info("node %s takes pods", self.flags.node_name)
        await pods.synced()
        await static.read_once.wait()
        services.claims.forget_others([uid_of(pod) for pod in manager.active()])
        start(services.claims.run, "device claims")
        start(partial(self._housekeeping, manager, events, cgroups), "housekeeping")
        await tasks.wait()

    # -- making the parts ----------------------------------------------------------------------------

    async def _meet(self, runtime: CRIClient) -> cri.VersionResponse:
        """Wait until the runtime answers."""
        told = False
        while True:
            try:
                return await runtime.version()
            except CRIError as error:
                if not told:
                    log.info("waiting for the runtime at %s: %s", runtime.endpoint, error)
                    told = True
                await self.clock.sleep(RUNTIME_RETRY)

    def _measure(self, machine: Machine) -> NodeFacts:
        """What the node can give, and what its pods are told of it. Reads files."""
        capacity = capacity_of(machine, self.config.max_pods, self.flags.capacity)
        reserved = (self.config.system_reserved, self.config.kube_reserved)
        return NodeFacts(
            host_ips=self.flags.node_ips or default_addresses(),
            runtime_name=self._runtime_version.runtime_name,
            capacity=capacity,
            allocatable=allocatable_of(capacity, reserved, self.config.eviction_hard),
            memory_bytes=Quantity.parse(capacity["memory"]).value(),
            resolver=_host_resolver(self.config.resolv_conf),
            hosts=_read("/etc/hosts"),
        )

    def _services(
        self,
        tasks: Supervised,
        runtime: CRIClient,
        node: NodeFacts,
        cgroups: CgroupTree,
        informers: Informers,
        recorder: EventRecorder,
    ) -> PodServices:
        paths = Paths(self.flags.root_dir, Path(self.config.pod_logs_dir))
        self._late = late = _Late()
        objects = ObjectCache(self.client, informers, self.clock, late.objects_changed)
        tokens = TokenManager(self.client, self.clock, self._jitter)
        driver_objects = informers.of(CSIDriver)
        self._csi = CSI(self.client, self.clock, driver_objects, tokens, paths, self.flags.node_name)
        sources = (LocalSource(paths), self._csi.persistent)
        return PodServices(
            config=self.config,
            flags=self.flags,
            client=self.client,
            clock=self.clock,
            runtime=runtime,
            recorder=recorder,
            status=StatusManager(self.client, self.clock, tasks.spawn),
            images=ImageManager(
                runtime,
                self.clock,
                serialize=self.config.serialize_image_pulls,
                parallel=self.config.max_parallel_image_pulls,
            ),
            volumes=VolumeManager(self._volume_plugins(objects, tokens, recorder, sources), paths, sources),
            cgroups=cgroups,
            containers=make_container_manager(
                self.config, paths, read_topology(node.memory_bytes), node.capacity, self.clock
            ),
            claims=ClaimManager(self.client, self.clock, paths.root, self.flags.node_name),
            probes=ProbeManager(runtime, recorder, self.clock, tasks.spawn, late.wake),
            objects=objects,
            tokens=tokens,
            services=informers.of(Service).lister,
            crash_backoff=Backoff(self.clock, longest=self.config.crash_loop_max_period),
            paths=paths,
            node=node,
            api_pod=late.api_pod,
            room=late,
            users=UserNamespaces(paths, self._user_ids, self.config.ids_per_pod),
        )

    def _volume_plugins(
        self,
        objects: ObjectCache,
        tokens: TokenManager,
        recorder: EventRecorder,
        sources: Sequence[PersistentSource],
    ) -> list[VolumePlugin]:
        """Every kind of volume, in the order in which they are asked."""
        config_map, secret = partial(objects.get, ConfigMap), partial(objects.get, Secret)
        return [
            ProjectedPlugin(config_map, secret, tokens, self.clock),
            ConfigMapPlugin(config_map),
            SecretPlugin(secret),
            EmptyDirPlugin(),
            DownwardAPIPlugin(),
            HostPathPlugin(),
            self._csi.inline,
            ClaimPlugin(self.client, recorder, self.flags.node_name, sources),
        ]

    def _static_pods(self, manager: PodManager) -> StaticPods:
        def removed(uid: PodUID, pod: Pod) -> None:
            manager.remove(uid)
            name = f"{pod.metadata.name}_{pod.metadata.namespace}"
            manager.forget_waiting(name)
            if manager.mirror_keeper is not None:
                manager.mirror_keeper.sync(name)

        return StaticPods(
            Path(self.config.static_pod_path or self.flags.root_dir / "manifests"),
            self.flags.node_name,
            self.clock,
            self.config.file_check_frequency.total_seconds(),
            manager.add,
            removed,
        )

    # -- what goes on --------------------------------------------------------------------------------

    def _node_seen(self, node: Node, manager: PodManager, registration: NodeRegistration) -> None:
        before = registration.node.spec if registration.node is not None else None
        registration.observe(node)
        self._csi.attachments.look_again()
        manager.node_labels = node.metadata.labels
        if node.spec.pod_cidrs and (before is None or before.pod_cidrs != node.spec.pod_cidrs or not self._cidr_known):
            self._cidr_known = True
            self._pod_cidr.put_nowait(",".join(node.spec.pod_cidrs))

    async def _hand_on_pod_cidr(self, runtime: CRIClient, registration: NodeRegistration) -> None:
        """Tell the runtime which addresses the node's pods get, until cancelled."""
        if self.config.pod_cidr:
            self._pod_cidr.put_nowait(self.config.pod_cidr)
        while True:
            cidr = await self._pod_cidr.get()
            try:
                await runtime.set_pod_cidr(cidr)
            except CRIError as error:
                log.warning("telling the runtime the pod CIDR %s failed: %s", cidr, error)
                await self.clock.sleep(RUNTIME_RETRY)
                self._pod_cidr.put_nowait(cidr)
            else:
                registration.report_soon()  # the network may be ready now

    async def _status_facts(
        self, machine: Machine, services: PodServices, events: LifecycleEvents, eviction: EvictionManager
    ) -> StatusFacts:
        """Measure what the node's status says."""
        node, runtime = services.node, services.runtime
        capacity, allocatable = services.containers.amounts()
        problems: list[str] = []
        status: cri.StatusResponse | None = None
        images: list[cri.Image] = []
        try:
            answer, images = await asyncio.gather(runtime.status(), runtime.list_images())
            problems += _runtime_problems(answer.status)
            status = answer
        except CRIError as error:
            problems.append(f"container runtime status check may not have completed yet: {error}")
        if not events.healthy:
            problems.append("PLEG is not healthy: pleg has yet to be successful")
        return StatusFacts(
            machine=machine,
            hostname=self.flags.hostname or self.flags.node_name,
            ips=node.host_ips,
            port=self.config.port,
            capacity={**node.capacity, **capacity},
            allocatable={**node.allocatable, **allocatable},
            runtime=self._runtime_version,
            runtime_status=status,
            images=images,
            volumes_in_use=self._csi.attachments.in_use(),
            health=Health(
                problems=tuple(problems),
                memory_pressure=eviction.memory_pressure,
                disk_pressure=eviction.disk_pressure,
                pid_pressure=eviction.pid_pressure,
            ),
        )

    async def _keep_cpusets(self, services: PodServices, manager: PodManager) -> None:
        period = self.config.cpu_manager_reconcile_period.total_seconds()
        await services.containers.keep_cpusets(manager.running, services.runtime.update_resources, period)

    async def _housekeeping(self, manager: PodManager, events: LifecycleEvents, cgroups: CgroupTree) -> None:
        """Remove what nobody owns and weigh the classes, until cancelled."""
        while True:
            await manager.clean_orphans(events.pods())
            await asyncio.to_thread(cgroups.share_among_burstable, manager.active())
            manager.retry_resizes()
            await self.clock.sleep(HOUSEKEEPING)


class _Late:
    """Calls of parts made before the manager to the manager."""

    def __init__(self) -> None:
        self._manager: PodManager | None = None

    def bind(self, manager: PodManager) -> None:
        self._manager = manager

    def wake(self, uid: PodUID) -> None:
        if self._manager is not None:
            self._manager.wake(uid)

    def objects_changed(self, uid: PodUID) -> None:
        if self._manager is not None:
            self._manager.objects_changed(uid)

    def others(self, uid: PodUID) -> list[Pod]:
        return self._manager.others(uid) if self._manager is not None else []

    def changed(self) -> None:
        if self._manager is not None:
            self._manager.retry_resizes()

    def api_pod(self, pod: Pod) -> Pod | None:
        return self._manager.api_pod(pod) if self._manager is not None else None


def _allocatable_limits(node: NodeFacts) -> Limits:
    cpu = Quantity.parse(node.allocatable["cpu"]).milli_value()
    return Limits(cpu_shares=cpu_shares(cpu), memory=Quantity.parse(node.allocatable["memory"]).value())


def _runtime_problems(status: cri.RuntimeStatus) -> list[str]:
    """Why the runtime is not ready, in the words of the Ready condition."""
    problems = []
    for condition in status.conditions:
        if condition.status:
            continue
        said = f"{condition.type}=false reason:{condition.reason} message:{condition.message}"
        if condition.type == "NetworkReady":
            problems.append(f"container runtime network not ready: {said}")
        elif condition.type == "RuntimeReady":
            problems.append(f"container runtime not ready: {said}")
    return problems


def _host_resolver(path: str) -> Resolver:
    return parse_resolv_conf(_read(path)) if path else Resolver()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
