"""A real runtime in temporary directories: in this process, or in one of its own that tests may kill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc

from tiphys.api.cri import api_pb2 as cri
from tiphys.api.cri.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub
from tiphys.runtime import linux
from tiphys.runtime.cgroups import Cgroups
from tiphys.runtime.images.assemble import ensure_busybox, ensure_pause
from tiphys.runtime.images.store import ImageStore
from tiphys.runtime.network import LoopbackOnly
from tiphys.runtime.options import RuntimeOptions
from tiphys.runtime.server import RuntimeServer


def options_in(base: Path, **more: Any) -> RuntimeOptions:
    """Options with everything below `base`."""
    return RuntimeOptions(
        root=base / "root",
        run=base / "run",
        images=base / "images",
        listen=f"unix://{base}/s",
        default_cgroup_parent=f"/tph-test-{base.name}",
        **more,
    )


class Client:
    """CRI calls with short words."""

    def __init__(self, options: RuntimeOptions) -> None:
        self.options = options
        self.channel = grpc.aio.insecure_channel(f"unix:{options.socket}")
        self.runtime = RuntimeServiceStub(self.channel)
        self.images = ImageServiceStub(self.channel)

    async def sandbox(
        self, name: str = "pod", edit: Callable[[cri.PodSandboxConfig], None] | None = None
    ) -> tuple[str, cri.PodSandboxConfig]:
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=secrets.token_hex(4), namespace="default"),
            hostname=name,
            log_directory=str(self.options.root.parent / "logs" / name),
            labels={"app": name},
        )
        config.linux.security_context.namespace_options.pid = cri.CONTAINER
        if edit:
            edit(config)
        answer = await self.runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=config))
        return answer.pod_sandbox_id, config

    async def create(
        self,
        sandbox: tuple[str, cri.PodSandboxConfig],
        *argv: str,
        edit: Callable[[cri.ContainerConfig], None] | None = None,
        name: str = "main",
    ) -> str:
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name),
            image=cri.ImageSpec(image="busybox"),
            command=argv,
            log_path=f"{name}.log",
        )
        config.linux.security_context.namespace_options.CopyFrom(sandbox[1].linux.security_context.namespace_options)
        if edit:
            edit(config)
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox[0], config=config, sandbox_config=sandbox[1])
        return (await self.runtime.CreateContainer(request)).container_id

    async def start(self, container: str) -> None:
        await self.runtime.StartContainer(cri.StartContainerRequest(container_id=container))

    async def run(self, sandbox: tuple[str, cri.PodSandboxConfig], *argv: str, **more: Any) -> str:
        container = await self.create(sandbox, *argv, **more)
        await self.start(container)
        return container

    async def status(self, container: str) -> cri.ContainerStatus:
        request = cri.ContainerStatusRequest(container_id=container)
        return (await self.runtime.ContainerStatus(request)).status

    async def exited(self, container: str, timeout: float = 20.0) -> cri.ContainerStatus:
        """The status once the container has ended."""
        for _ in range(int(timeout * 100)):
            status = await self.status(container)
            if status.state == cri.CONTAINER_EXITED:
                return status
            await asyncio.sleep(0.01)
        raise TimeoutError(f"container {container} still runs after {timeout} s")

    async def stop(self, container: str, timeout: int = 0) -> None:
        await self.runtime.StopContainer(cri.StopContainerRequest(container_id=container, timeout=timeout))

    async def remove(self, sandbox: tuple[str, cri.PodSandboxConfig]) -> None:
        await self.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox[0]))
        await self.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox[0]))

    async def exec(self, container: str, *argv: str, timeout: int = 20) -> cri.ExecSyncResponse:
        return await self.runtime.ExecSync(cri.ExecSyncRequest(container_id=container, cmd=argv, timeout=timeout))

    async def output(self, sandbox: tuple[str, cri.PodSandboxConfig], *argv: str, **more: Any) -> str:
        """What a container that runs `argv` to its end wrote to standard output."""
        container = await self.run(sandbox, *argv, **more)
        status = await self.exited(container)
        lines = log_lines(status.log_path)
        await self.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=container))
        remove(status.log_path)
        return "\n".join(text for stream, text in lines if stream == "stdout")

    async def close(self) -> None:
        await self.channel.close()


def remove(path: str) -> None:
    Path(path).unlink()


def size_of(path: str | Path) -> int:
    """Bytes of a file, 0 when there is none."""
    return Path(path).stat().st_size if Path(path).exists() else 0


async def until(true: Callable[[], object], timeout: float = 10.0) -> None:
    """Return when `true()` is."""
    for _ in range(int(timeout * 100)):
        if true():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


def log_lines(path: str) -> list[tuple[str, str]]:
    """(stream, text) of every line of a log in CRI's format."""
    lines: list[tuple[str, str]] = []
    begun: dict[str, str] = {}
    for line in Path(path).read_text().splitlines():
        _, stream, tag, text = line.split(" ", 3)
        begun[stream] = begun.get(stream, "") + text
        if tag == "F":  # "P" is a part of a line
            lines.append((stream, begun.pop(stream)))
    return lines


@contextlib.asynccontextmanager
async def serving(options: RuntimeOptions) -> AsyncIterator[Client]:
    """A runtime in this process."""
    server = RuntimeServer(options, LoopbackOnly())
    task = asyncio.ensure_future(server.run())
    ready = asyncio.ensure_future(server.ready.wait())
    await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if task.done():
        task.result()
    client = Client(options)
    try:
        yield client
    finally:
        await client.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Process:
    """A runtime in a process of its own."""

    def __init__(self, options: RuntimeOptions) -> None:
        self.options = options
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start and wait until it serves."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.runtime.serve", str(self.options.root.parent)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == "ready"

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


def new_base() -> Path:
    """A short directory with the images tests run: the path of a socket has a limit."""
    base = Path(tempfile.mkdtemp(prefix="tph"))
    store = ImageStore(base / "images")
    ensure_busybox(store)
    ensure_pause(store)
    return base


def remains(base: Path, options: RuntimeOptions) -> list[str]:
    """Mounts, bundles, records and processes that are still there."""
    left = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if str(base) in line]
    left += [str(path) for path in (options.run / "containers").glob("*")]
    left += [str(path) for path in (options.run / "oci").glob("*")]
    left += [str(path) for path in (options.root / "containers").glob("*")]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            if str(base) in command and int(process.name) != os.getpid():
                left.append(command.replace("\0", " "))
    return left


async def clear_away(base: Path) -> list[str]:
    """Remove everything below `base` and say what should not have been there."""
    options = options_in(base)
    async with serving(options) as client:
        for item in (await client.runtime.ListPodSandbox(cri.ListPodSandboxRequest())).items:
            await client.remove((item.id, cri.PodSandboxConfig()))
    left = remains(base, options)
    groups = Cgroups()
    if groups.processes(options.default_cgroup_parent):
        left.append("processes in control groups")
    groups.kill(options.default_cgroup_parent)
    groups.remove(options.default_cgroup_parent)
    for mount in left:
        if mount.startswith("/"):
            linux.unmount(mount)
    shutil.rmtree(base, ignore_errors=True)
    return left
