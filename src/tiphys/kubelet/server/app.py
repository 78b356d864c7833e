"""What the kubelet serves: the table of paths, and who may use them.

| path | answer |
| --- | --- |
| /containerLogs/{ns}/{pod}/{container} | the log, followed if asked |
| /exec, /attach, /portForward /{ns}/{pod}[/{container}] | a stream of the runtime |
| /run/{ns}/{pod}/{container}?cmd= | the output of a command |
| /pods, /runningpods, /configz, /healthz | documents |
| /stats/summary, /metrics, /metrics/resource, /metrics/cadvisor, /metrics/probes | measurements |

Each may be followed by the pod's uid before the container, as older clients write it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from tiphys.api.core.v1 import Pod
from tiphys.api.cri import api_pb2 as cri
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY
from tiphys.base.process_metrics import expose_process
from tiphys.kubelet.config import KubeletConfiguration, KubeletFlags
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.cri.state import RuntimeContainer
from tiphys.kubelet.node.machine import Machine
from tiphys.kubelet.pleg import LifecycleEvents
from tiphys.kubelet.pod import PodUID, container_named
from tiphys.kubelet.pods.manager import PodManager
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.pods.starts import begin_counts
from tiphys.kubelet.pods.worker import PodWorker
from tiphys.kubelet.probes.manager import PROBE_REGISTRY
from tiphys.kubelet.server.auth import Delegation
from tiphys.kubelet.server.cadvisor import Known, cadvisor_metrics
from tiphys.kubelet.server.files import LogFiles
from tiphys.kubelet.server.http import HTTPServer, Request, Response, text
from tiphys.kubelet.server.logs import LogOptions, read_log
from tiphys.kubelet.server.metrics import resource_metrics
from tiphys.kubelet.server.podcounts import PodCounts
from tiphys.kubelet.server.requests import RequestMetrics
from tiphys.kubelet.server.stats import NodeCPU, set_start_times, summary
from tiphys.kubelet.server.streams import joined_to
from tiphys.kubelet.server.tls import self_signed, server_context
from tiphys.kubelet.server.volumestats import VolumeStats
from tiphys.machinery.errors import StatusError

log = get_logger(__name__)

JSON: Final = "application/json"
METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"

Action = Callable[[Request, list[str]], Awaitable[Response]]


class NotServed(Exception):
    """The request cannot be served; carries the status and the words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class KubeletServer:
    """The HTTPS server on the kubelet's port, and plain health on the health port."""

    def __init__(
        self,
        config: KubeletConfiguration,
        flags: KubeletFlags,
        services: PodServices,
        manager: PodManager,
        events: LifecycleEvents,
        machine: Machine,
    ) -> None:
        self._config = config
        self._flags = flags
        self._s = services
        self._manager = manager
        self._events = events
        self._machine = machine
        self._node_cpu = NodeCPU()
        self._volume_stats = VolumeStats(services.volumes.usage)
        self._delegation = Delegation(services.client, services.clock, config, flags.node_name)
        self._actions: dict[str, Action] = {
            "healthz": self._healthz,
            "metrics": self._metrics,
            "stats": self._stats,
            "pods": self._pods,
            "runningpods": self._running_pods,
            "configz": self._configz,
        }
        if config.enable_debugging_handlers:
            self._actions |= {
                "containerLogs": self._container_logs,
                "exec": self._exec,
                "cri": self._exec,
                "attach": self._attach,
                "portForward": self._port_forward,
                "run": self._run_command,
            }
        if config.enable_debugging_handlers and config.enable_system_log_handler:
            self._log_files = LogFiles(services.paths.logs)
            self._actions["logs"] = self._logs
        self.port = 0
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled. Raises OSError when an address is taken."""
        certificate, key = Path(self._config.tls_cert_file), Path(self._config.tls_private_key_file)
        if not self._config.tls_cert_file:
            addresses = (*self._s.node.host_ips, "127.0.0.1")
            certificate, key = await asyncio.to_thread(
                self_signed, self._flags.root_dir / "pki", self._flags.node_name, addresses
            )
        tls = server_context(certificate, key, self._config.client_ca_file)
        secure = HTTPServer(self._guarded, RequestMetrics(self._actions).observe)
        health = HTTPServer(self._health_only)
        begin_counts()
        counted = [
            self._s.volumes.expose(),
            *expose_process(),
            *PodCounts(self._flags.node_name, self._manager).expose(),
        ]
        try:
            # On a node that is known by an IPv6 address, every address is those of both families.
            is_every = self._config.address == "0.0.0.0" and any(":" in each for each in self._s.node.host_ips)
            self.port = await secure.start("" if is_every else self._config.address, self._config.port, tls)
            if self._config.healthz_port > 0:
                await health.start(self._config.healthz_bind_address, self._config.healthz_port)
            self.ready.set()
            await asyncio.get_running_loop().create_future()
        finally:
            for remove in counted:
                remove()
            await secure.close()
            await health.close()
            await self._volume_stats.close()

    # -- who and what --------------------------------------------------------------------------------

    async def _guarded(self, request: Request) -> Response:
        try:
            user = await self._delegation.authenticate(request)
            if user is None:
                return text(401, "Unauthorized")
            if not await self._delegation.allowed(user, request):
                return text(403, self._delegation.refusal(user, request))
        except (StatusError, OSError) as error:
            return text(500, f"Authorization error (the API server was not able to answer: {error})")
        return await self._route(request)

    async def _health_only(self, request: Request) -> Response:
        return await self._healthz(request, []) if request.path == "/healthz" else text(404, "404 page not found\n")

    async def _route(self, request: Request) -> Response:
        first, *rest = [part for part in request.path.split("/") if part] or [""]
        action = self._actions.get(first)
        if action is None:
            return text(404, "404 page not found\n")
        try:
            return await action(request, rest)
        except NotServed as error:
            return text(error.status, error.message)
        except CRIError as error:
            return text(404 if error.not_found else 500, str(error))

    # -- documents -----------------------------------------------------------------------------------

    async def _healthz(self, request: Request, rest: list[str]) -> Response:
        if not self._events.healthy:
            return text(500, "[-]syncloop failed\nhealthz check failed\n")
        return text(200, "ok")

    async def _logs(self, request: Request, rest: list[str]) -> Response:
        if request.method not in ("GET", "HEAD"):
            return text(405, "Method Not Allowed\n")
        return await self._log_files.answer(request.path, rest)

    async def _pods(self, request: Request, rest: list[str]) -> Response:
        return _pod_list(self._manager.pods())

    async def _running_pods(self, request: Request, rest: list[str]) -> Response:
        workers = self._manager.workers.values()
        return _pod_list([worker.pod for worker in workers if worker.runtime.running])

    async def _configz(self, request: Request, rest: list[str]) -> Response:
        return Response(body=msgspec.json.encode({"kubeletconfig": self._config.to_dict()}), content_type=JSON)

    async def _metrics(self, request: Request, rest: list[str]) -> Response:
        match rest:
            case []:
                mounted = [(worker.pod, worker.mounted) for worker in self._manager.workers.values()]
                claims = await self._volume_stats.exposition(mounted)
                return Response(body=REGISTRY.expose() + claims, content_type=METRICS)
            case ["probes"]:
                return Response(body=PROBE_REGISTRY.expose(), content_type=METRICS)
            case ["cadvisor"]:
                measured = cadvisor_metrics(await self._summary(), self._machine, self._known)
                return Response(body=measured, content_type=METRICS)
            case ["resource"]:
                return Response(body=resource_metrics(await self._summary()), content_type=METRICS)
        raise NotServed(404, "404 page not found\n")

    async def _stats(self, request: Request, rest: list[str]) -> Response:
        if rest != ["summary"]:
            raise NotServed(404, "404 page not found\n")
        return Response(body=msgspec.json.encode(await self._summary()), content_type=JSON)

    def _known(self, uid: PodUID) -> Known | None:
        worker = self._manager.workers.get(uid)
        return None if worker is None else Known(worker.pod, worker.runtime, self._s.cgroups.path_of(worker.pod))

    async def _summary(self) -> dict[str, Any]:
        pods = await self._s.runtime.pod_stats()
        images = next((Path(fs.fs_id.mountpoint) for fs in (await self._s.runtime.image_fs()).image_filesystems), None)
        document = await asyncio.to_thread(
            summary, self._flags.node_name, self._machine, self._node_cpu, self._flags.root_dir, images, pods
        )
        known = [
            (pod, worker)
            for pod in document["pods"]
            if (worker := self._manager.workers.get(PodUID(pod["podRef"]["uid"]))) is not None
        ]
        volumes = await self._volume_stats.of_pods((worker.pod, worker.mounted) for _, worker in known)
        for (pod, worker), measured in zip(known, volumes, strict=True):
            set_start_times(pod, worker.runtime)
            pod["volume"] = measured
        return document

    # -- containers ----------------------------------------------------------------------------------

    def _worker(self, rest: list[str]) -> PodWorker:
        if len(rest) < 2:
            raise NotServed(404, "404 page not found\n")
        worker = self._manager.find(rest[0], rest[1])
        if worker is None:
            raise NotServed(404, f'pod "{rest[1]}" not found\n')
        return worker

    def _running_container(self, rest: list[str], unknown: str = 'container not found ("{name}")') -> RuntimeContainer:
        """The container a stream is to join. NotServed when it does not run; clients show the text as it is."""
        worker = self._worker(rest)
        container = worker.runtime.container(rest[-1])
        if len(rest) < 3 or container is None or not container.running:
            pod = worker.pod.metadata
            raise NotServed(404, unknown.format(name=rest[-1], pod=f"{pod.name}_{pod.namespace}"))
        return container

    async def _container_logs(self, request: Request, rest: list[str]) -> Response:
        worker = self._worker(rest)
        name = rest[-1]
        if len(rest) < 3 or container_named(worker.pod, name) is None:
            raise NotServed(404, f'container {name} not found in pod "{worker.pod.metadata.name}"')
        try:
            options = LogOptions.from_query(request.query, self._s.clock.now())
        except ValueError as error:
            raise NotServed(422, str(error)) from error
        container = self._logged(worker, name, previous=request.query.get("previous", [""])[0] == "true")

        def running() -> bool:
            current = worker.runtime.container(name)
            return current is not None and current.id == container.id and current.running

        path = Path(container.log_path)
        if not await asyncio.to_thread(path.exists):
            raise NotServed(500, f"failed to try resolving symlinks in path {path}: no such file or directory")
        return Response(stream=read_log(path, options, self._s.clock, running))

    def _logged(self, worker: PodWorker, name: str, *, previous: bool) -> RuntimeContainer:
        """The container whose log is meant. Raises NotServed worded as upstream."""
        pod = worker.pod.metadata.name
        current = worker.runtime.container(name)
        if previous:
            last = worker.runtime.previous(name)
            if last is None and current is not None and current.exited:
                last = current
            if last is None:
                raise NotServed(400, f'previous terminated container "{name}" in pod "{pod}" not found')
            return last
        if current is not None and (current.running or current.exited):
            return current
        last = worker.runtime.previous(name)
        if last is not None:
            return last
        raise NotServed(400, f'container "{name}" in pod "{pod}" is waiting to start: {worker.waiting_reason(name)}')

    async def _exec(self, request: Request, rest: list[str]) -> Response:
        if rest and rest[0] == "exec":  # /cri/exec, as some clients still ask
            rest = rest[1:]
        container = self._running_container(rest)
        query = request.query
        url = await self._s.runtime.exec_url(
            cri.ExecRequest(
                container_id=container.id,
                cmd=query.get("command", []),
                tty=_flag(query, "tty"),
                stdin=_flag(query, "input") or _flag(query, "stdin"),
                stdout=_flag(query, "output") or _flag(query, "stdout"),
                stderr=(_flag(query, "error") or _flag(query, "stderr")) and not _flag(query, "tty"),
            )
        )
        return joined_to(request, url)

    async def _attach(self, request: Request, rest: list[str]) -> Response:
        container = self._running_container(rest, "container {name} not found in pod {pod}")
        query = request.query
        url = await self._s.runtime.attach_url(
            cri.AttachRequest(
                container_id=container.id,
                tty=_flag(query, "tty"),
                stdin=_flag(query, "input") or _flag(query, "stdin"),
                stdout=_flag(query, "output") or _flag(query, "stdout"),
                stderr=(_flag(query, "error") or _flag(query, "stderr")) and not _flag(query, "tty"),
            )
        )
        return joined_to(request, url)

    async def _port_forward(self, request: Request, rest: list[str]) -> Response:
        worker = self._worker(rest)
        sandbox = worker.runtime.ready_sandbox
        if sandbox is None:
            raise NotServed(404, f'pod "{worker.pod.metadata.name}" is not running')
        ports = [int(text) for value in request.query.get("port", []) for text in value.split(",") if text.isdigit()]
        return joined_to(request, await self._s.runtime.port_forward_url(sandbox.id, ports))

    async def _run_command(self, request: Request, rest: list[str]) -> Response:
        container = self._running_container(rest)
        command = " ".join(request.query.get("cmd", [])).split()
        answer = await self._s.runtime.exec_sync(container.id, command, 0)
        return Response(body=answer.stdout + answer.stderr)


def _flag(query: dict[str, list[str]], name: str) -> bool:
    return query.get(name, [""])[0].lower() in ("true", "1")


def _pod_list(pods: list[Pod]) -> Response:
    items = [{"apiVersion": "v1", "kind": "Pod", **msgspec.to_builtins(pod)} for pod in pods]
    document = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
    return Response(body=msgspec.json.encode(document), content_type=JSON)
