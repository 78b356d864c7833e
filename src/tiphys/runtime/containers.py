"""Containers: created from an image, started under conmon, watched to their end, removed.

The record on disk is written before each step and after it (see `state`), so that a runtime that is killed
anywhere in between finds out, when it comes back, how far it got: `recover` reads the records, and `/proc`,
conmon's exit files and the OCI runtime's directory for the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from tiphys.api.cri import api_pb2
from tiphys.base.log import get_logger
from tiphys.runtime import filesystems, linux, process
from tiphys.runtime.container import STATES, Container
from tiphys.runtime.endings import exit_code, read_exit_file, was_out_of_memory
from tiphys.runtime.errors import FailedPrecondition, InvalidArgument, NotFound, RuntimeFault
from tiphys.runtime.node import Node, now
from tiphys.runtime.oci import Monitor, OCIError
from tiphys.runtime.prepare import Joined, Request, prepare
from tiphys.runtime.remains import clean_up, discard, finish_start, sweep_away
from tiphys.runtime.signals import signal_number
from tiphys.runtime.spec.mounts import SandboxFiles
from tiphys.runtime.spec.resources import merge, oci_resources
from tiphys.runtime.state import ContainerRecord, Records, SandboxRecord, new_id

log = get_logger(__name__)

# Exit code of what could not be started, as the kubelet knows it.
START_ERROR = 128


class Containers:
    """All containers of the node. One change of a container happens at a time; stopping is not blocked by it."""

    def __init__(self, node: Node, on_change: Callable[[Container], None]) -> None:
        """`on_change` hears of every new state of a container, pause processes too, after it is on disk."""
        self._node = node
        self._on_change = on_change
        self._records = Records(node.options.root / "containers", ContainerRecord)
        self._all: dict[str, Container] = {}
        self._exits = -1

    # ---- looking

    def get(self, container_id: str) -> Container:
        """By id or an unambiguous beginning of it; NotFound."""
        found = self._all.get(container_id)
        if found is None and container_id:
            matches = [container for key, container in self._all.items() if key.startswith(container_id)]
            found = matches[0] if len(matches) == 1 else None
        if found is None:
            raise NotFound(f'an error occurred when try to find container "{container_id}": not found')
        return found

    def all(self, *, infra: bool = False) -> list[Container]:
        """Every container; the pause processes of sandboxes only with `infra`."""
        return [container for container in self._all.values() if infra or not container.record.infra]

    def of_sandbox(self, sandbox_id: str, *, infra: bool = True) -> list[Container]:
        """Containers of one sandbox."""
        return [container for container in self.all(infra=infra) if container.record.sandbox_id == sandbox_id]

    def running(self, container_id: str) -> Container:
        """A container that runs; FailedPrecondition otherwise."""
        container = self.get(container_id)
        if not container.running:
            state = api_pb2.ContainerState.Name(STATES[container.record.state])
            raise FailedPrecondition(f'failed to exec in container: container "{container_id}" is in {state} state')
        return container

    # ---- creating and starting

    async def create(
        self,
        sandbox: SandboxRecord,
        config: api_pb2.ContainerConfig,
        sandbox_config: api_pb2.PodSandboxConfig,
        files: SandboxFiles,
        joined: Joined,
        *,
        infra: bool = False,
    ) -> Container:
        """Make everything a container needs short of its process. On failure nothing is left."""
        image = self._node.images.find(config.image.image)
        if image is None:
            raise NotFound(f'failed to resolve image "{config.image.image}": not found')
        parent = sandbox_config.linux.cgroup_parent or f"{self._node.options.default_cgroup_parent}/{sandbox.id}"
        container_id = new_id()
        log_path = ""
        if config.log_path:
            log_path = str(Path(sandbox_config.log_directory or "/", config.log_path))
        record = ContainerRecord(
            id=container_id,
            sandbox_id=sandbox.id,
            config=config.SerializeToString(),
            resources=config.linux.resources.SerializeToString(),
            created_at=now(),
            state="creating",
            image_id=image.id,
            image_ref=image.digests[0] if image.digests else image.id,
            layers=image.layers,
            log_path=log_path,
            cgroup=f"{parent.rstrip('/')}/{container_id}",
            infra=infra,
        )
        try:
            request = Request(config, sandbox_config, image, files, joined)
            record = await self._node.uninterrupted(self._create, record, request)
        except BaseException:
            await asyncio.shield(self._node.blocking(discard, self._node, self._records, record))
            raise
        container = Container(record, sandbox.runtime_handler)
        self._all[record.id] = container
        return container

    def _create(self, record: ContainerRecord, request: Request) -> ContainerRecord:
        self._records.save(record)
        record = msgspec.structs.replace(prepare(self._node, record, request), state="created")
        self._records.save(record)
        return record

    async def start(self, container: Container) -> None:
        """Run the container's process. A failure ends the container with StartError and exit code 128.

        A caller that goes away does not stop it half-way, where nobody would hear of the container's end.
        """
        starting = self._node.begin(lambda: self._run(container), name=f"start of {container.id[:12]}")
        await asyncio.shield(starting)

    async def _run(self, container: Container) -> None:
        async with container.lock:
            if container.record.state != "created":
                state = api_pb2.ContainerState.Name(STATES[container.record.state])
                raise FailedPrecondition(f'container "{container.id}" is in {state} state')
            self._update(container, state="starting")
            try:
                pid = await self._node.blocking(self._start, container)
            except (OCIError, OSError) as error:
                message = f"failed to create container task: {error}"
                await self._node.blocking(clean_up, self._node, container)
                moment = now()
                self._update(
                    container,
                    state="exited",
                    started_at=0,
                    finished_at=moment,
                    exit_code=START_ERROR,
                    reason="StartError",
                    message=message,
                )
                container.ended.set()
                container.clean.set()
                raise RuntimeFault(message) from error
            self._update(container, state="running", pid=pid, pid_started=process.start_time(pid), started_at=now())
            self._watch(container)

    def _start(self, container: Container) -> int:
        record, options = container.record, self._node.options
        runtime = self._node.oci(container.handler)
        if record.log_path:
            Path(record.log_path).parent.mkdir(parents=True, exist_ok=True)
        monitor = Monitor(
            bundle=options.bundle(record.id),
            exits=options.exits,
            log_path=record.log_path,
            tty=container.config.tty,
            stdin=container.config.stdin,
            stdin_once=container.config.stdin_once,
        )
        pid = runtime.create(record.id, monitor)
        filesystems.remove_mounts(options.mounts(record.id))  # it has its own by now
        runtime.start(record.id)
        return pid

    # ---- the end of a container

    def watch_exits(self) -> None:
        """Begin to hear of exit files; before any container is watched."""
        self._node.options.exits.mkdir(parents=True, exist_ok=True)
        self._exits = linux.inotify_moved_to(self._node.options.exits)
        asyncio.get_running_loop().add_reader(self._exits, self._exit_files)

    def close(self) -> None:
        """Stop watching; containers run on under their monitors."""
        if self._exits >= 0:
            asyncio.get_running_loop().remove_reader(self._exits)
            os.close(self._exits)
            self._exits = -1
        for container in self._all.values():
            if container.watch is not None:
                container.watch.close()

    def _exit_files(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._exits, 1 << 16)
            offset = 0
            while offset < len(data):
                length = int.from_bytes(data[offset + 12 : offset + 16], "little")
                name = data[offset + 16 : offset + 16 + length].rstrip(b"\0").decode()
                offset += 16 + length
                container = self._all.get(name)
                if container is not None:
                    container.exit_written.set()
                    self._finish(container)

    def _watch(self, container: Container) -> None:
        """Hear of the process's own end too: its monitor may have been killed."""
        try:
            handle = process.Handle.open(container.record.pid)
        except OSError:
            self._finish(container)
            return
        self._node.children.claim(container.record.pid)
        container.watch = process.ExitWatch(handle, lambda: self._finish(container))
        if process.start_time(container.record.pid) != container.record.pid_started:
            container.watch.close()
            self._finish(container)

    def _finish(self, container: Container) -> None:
        if container.finishing or container.record.state not in ("running", "starting"):
            return
        container.finishing = True
        self._node.tasks.spawn(lambda: self._finished(container), name=f"exit of {container.id[:12]}")

    async def _finished(self, container: Container) -> None:
        """Learn the exit code, tell everybody, then clean up what the container leaves in the kernel."""
        try:
            async with container.lock:  # a start in progress comes to its end first
                if container.record.state != "running":
                    return
            if container.watch is not None:
                container.watch.close()
            code, moment, known = await exit_code(self._node, container)
            oom = await self._node.blocking(was_out_of_memory, self._node, container.record)
            reason = "Completed" if code == 0 else "Error"
            message = ""
            if not known:
                reason, message = "ContainerStatusUnknown", "the container's monitor was lost before it ended"
            elif oom and code != 0:
                reason = "OOMKilled"
            # What ends at once may have ended before its start was noted.
            moment = max(moment, container.record.started_at)
            self._update(container, state="exited", finished_at=moment, exit_code=code, reason=reason, message=message)
            container.ended.set()
            await self._node.blocking(clean_up, self._node, container)
            self._node.children.sweep()
        except Exception:
            log.exception("cleaning up after container %s failed", container.id)
        finally:
            container.finishing = False
            container.clean.set()

    # ---- stopping and removing

    async def stop(self, container: Container, timeout: float) -> None:
        """End the container: its stop signal, `timeout` seconds of grace, then SIGKILL. Idempotent."""
        if container.record.state == "starting":
            async with container.lock:  # its start comes to its end first
                pass
        if container.record.state in ("created", "creating"):
            return  # it never ran: an end, and with success, would be an invention
        if container.record.state == "running":
            if timeout > 0:
                container.signal(signal_number(container.record.stop_signal))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await container.ended.wait()
            if not container.ended.is_set():
                container.signal(signal.SIGKILL)
                # Processes without a PID namespace of their own outlive their first one.
                await self._node.blocking(self._node.cgroups.kill, container.record.cgroup)
        await container.ended.wait()
        await container.clean.wait()

    async def remove(self, container: Container) -> None:
        """Take the container away, killing it where it runs. Idempotent."""
        await self.stop(container, 0)
        async with container.lock:
            if self._all.get(container.id) is not container:
                return
            await self._node.blocking(discard, self._node, self._records, container.record)
            del self._all[container.id]

    # ---- changing

    async def update_resources(self, container: Container, change: api_pb2.LinuxContainerResources) -> None:
        """New limits, at once where the container runs."""
        async with container.lock:
            if container.record.state not in ("created", "running"):
                raise FailedPrecondition(f'container "{container.id}" is not in created or running state')
            before = api_pb2.LinuxContainerResources.FromString(container.record.resources)
            after = merge(before, change)
            resources = oci_resources(
                change,
                unified=self._node.machine.unified_cgroups,
                swap_accounting=self._node.machine.swap_accounting,
            )
            if container.running:
                runtime = self._node.oci(container.handler)
                try:
                    await self._node.blocking(runtime.update, container.id, resources)
                except OCIError as error:
                    raise RuntimeFault(f"failed to update resources: {error}") from error
            else:
                container.config.linux.resources.CopyFrom(after)
                await self._node.blocking(self._rewrite_limits, container.id, resources)
            self._update(container, resources=after.SerializeToString())

    def _rewrite_limits(self, container_id: str, resources: dict[str, object]) -> None:
        path = self._node.options.bundle(container_id) / "config.json"
        document = msgspec.json.decode(path.read_bytes())
        for name, value in resources.items():
            current = document["linux"]["resources"].setdefault(name, {})
            if isinstance(current, dict) and isinstance(value, dict):
                current.update(value)
            else:
                document["linux"]["resources"][name] = value
        path.write_bytes(msgspec.json.encode(document))

    def reopen_log(self, container: Container) -> None:
        """Make conmon write to a new file at the log's path (the old one was renamed)."""
        if not container.running:
            raise InvalidArgument(f'container "{container.id}" is not running')
        self.control(container, 2, 0, 0)

    def control(self, container: Container, *message: int) -> None:
        """Write to conmon's control FIFO: 1 height width resizes the terminal, 2 0 0 reopens the log."""
        path = self._node.options.bundle(container.id) / "ctl"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise RuntimeFault(f"the monitor of container {container.id} is gone: {error.strerror}") from error
        try:
            os.write(fd, (" ".join(map(str, message)) + "\n").encode())
        finally:
            os.close(fd)

    def _update(self, container: Container, **changes: object) -> None:
        """The record on disk first, then what callers see, then the event."""
        before = container.record.state
        record = msgspec.structs.replace(container.record, **changes)
        self._records.save(record)
        container.record = record
        if record.state != before:
            self._on_change(container)

    # ---- coming back

    async def recover(self, sandboxes: dict[str, SandboxRecord]) -> None:
        """Take up the containers an earlier process of this runtime left; call after `watch_exits`."""
        records, broken = await self._node.blocking(self._records.load)
        bundles = self._node.options.run / "containers"
        known = {record.id for record in records}
        if bundles.is_dir():
            broken += [path.name for path in bundles.iterdir() if path.name not in known]
        broken += [name for name in self._node.images.leases(self._node.options.node) if name not in known]
        for container_id in sorted(set(broken)):
            await self._node.blocking(sweep_away, self._node, self._records, container_id)
        for record in records:
            sandbox = sandboxes.get(record.sandbox_id)
            if sandbox is None or record.state == "creating":
                await self._node.blocking(sweep_away, self._node, self._records, record.id, record.cgroup)
                continue
            container = Container(record, sandbox.runtime_handler)
            self._all[record.id] = container
            if record.state == "exited":
                container.ended.set()
                await self._node.blocking(clean_up, self._node, container)
                container.clean.set()
            elif record.state == "starting":
                await self._recover_starting(container)
            elif record.state == "running":
                self._watch(container)
                if read_exit_file(self._node, record.id) is not None:
                    self._finish(container)

    async def _recover_starting(self, container: Container) -> None:
        """Killed while it started a container: what its monitor has made is started, the rest never will be."""
        pid = await self._node.blocking(finish_start, self._node, container)
        if pid:
            self._update(container, state="running", pid=pid, pid_started=process.start_time(pid), started_at=now())
            self._watch(container)
            if read_exit_file(self._node, container.id) is not None:
                self._finish(container)
            return
        # It never ran: it is as it was before, and may be started again.
        self._update(container, state="created")
