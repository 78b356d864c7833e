"""The HAProxy of this node: started, reloaded without losing a connection, adopted when we were away.

It runs in master-worker mode. A reload starts a worker with the new configuration, which takes the listening sockets
over from the old one; the old one ends when its last connection does. HAProxy outlives whoever started it: a
controller that comes back finds it by its pid file and goes on.
https://docs.haproxy.org/2.6/management.html#4
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tiphys.base.log import get_logger
from tiphys.ingress.haproxy.config import Settings

log = get_logger(__name__)

PROGRAM: Final = "haproxy"
STARTS_WITHIN: Final = 15.0  # seconds for a process or a reload to answer with its generation
ANSWERS_WITHIN: Final = 5.0  # seconds for a command
POLL: Final = 0.02
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HaproxyError(Exception):
    """HAProxy is not there, refuses a configuration, or does not answer."""


class RefusedError(HaproxyError):
    """HAProxy would not take a configuration."""


def find_program() -> str:
    """Where HAProxy is; raises HaproxyError when it is not installed."""
    found = shutil.which(PROGRAM) or shutil.which(PROGRAM, path=PATH)
    if found is None:
        raise HaproxyError("there is no haproxy on this machine; on Debian or Ubuntu: apt-get install -y haproxy")
    return found


class Haproxy:
    """One process with its files in a directory of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._program = find_program()

    async def check(self, files: Mapping[str, bytes]) -> None:
        """Raises RefusedError, in HAProxy's words, when it would not take these files."""
        trial = self._settings.directory / "trial"
        await asyncio.to_thread(_write_all, trial, self._moved(files, trial))
        process = await asyncio.create_subprocess_exec(
            self._program,
            *("-c", "-f", str(trial / self._settings.main_file.name)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            lines = [line for line in output.decode(errors="replace").splitlines() if "[ALERT]" in line]
            raise RefusedError(" ".join(" ".join(lines[:3]).split()) or f"haproxy -c ended with {process.returncode}")

    def _moved(self, files: Mapping[str, bytes], directory: Path) -> dict[str, bytes]:
        """The files as they would be in another directory, so that a trial does not touch those in force."""
        here, there = f"{self._settings.directory}/".encode(), f"{directory}/".encode()
        return {name: data if name.endswith(".pem") else data.replace(here, there) for name, data in files.items()}

    async def apply(self, files: Mapping[str, bytes], generation: str) -> None:
        """Make it run with these files. Raises HaproxyError; what ran before then still runs."""
        if self.pid() and await self.generation() == generation:
            return
        await self.check(files)
        await asyncio.to_thread(_write_all, self._settings.directory, files)
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGUSR2)
        else:
            await self._start()
        await self._until(generation)
        await asyncio.to_thread(_remove_others, self._settings.directory, files)

    def pid(self) -> int:
        """The master's process, 0 when there is none."""
        try:
            pid = int(self._settings.pid_file.read_text().split()[0])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            return 0
        return pid if str(self._settings.main_file).encode() in command else 0

    async def _start(self) -> None:
        self._settings.socket.unlink(missing_ok=True)
        main = str(self._settings.main_file)
        # A session of its own: a signal to the controller's group is not for it.
        await asyncio.create_subprocess_exec(
            *(self._program, "-W", "-f", main, "-p", str(self._settings.pid_file)),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    async def _until(self, generation: str) -> None:
        deadline = asyncio.get_running_loop().time() + STARTS_WITHIN
        while asyncio.get_running_loop().time() < deadline:
            if await self.generation() == generation:
                return
            await asyncio.sleep(POLL)
        raise HaproxyError(f"haproxy did not come up with its configuration within {STARTS_WITHIN:.0f} s")

    async def generation(self) -> str:
        """What the running process was configured with, "" when none answers."""
        with suppress(HaproxyError):
            for line in (await self.ask(["show info"])).splitlines():
                if line.startswith("description: "):
                    return line.removeprefix("description: ").strip()
        return ""

    async def ask(self, commands: Sequence[str]) -> str:
        """Give commands to the running process, in order; its answers. Raises HaproxyError when it does not answer."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN):
                reader, writer = await asyncio.open_unix_connection(str(self._settings.socket))
                try:
                    writer.write((";".join(commands) + "\n").encode())
                    await writer.drain()
                    return (await reader.read()).decode(errors="replace")
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise HaproxyError(f"haproxy does not answer: {error or 'time is up'}") from error

    async def stop(self) -> None:
        """End it at once."""
        pid = self.pid()
        if not pid:
            return
        try:
            process = os.pidfd_open(pid)
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        try:
            await asyncio.to_thread(select.select, [process], [], [], STARTS_WITHIN)
        finally:
            os.close(process)


def _write_all(directory: Path, files: Mapping[str, bytes]) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, data in files.items():
        path = directory / name
        with suppress(OSError):
            if path.read_bytes() == data:
                continue
        temporary = path.with_name(f".{name}.new")
        # Certificates come with their keys.
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        temporary.replace(path)


def _remove_others(directory: Path, files: Mapping[str, bytes]) -> None:
    """Keys and tables that are not used any more."""
    for path in directory.iterdir():
        if path.suffix in (".pem", ".map", ".list") and path.name not in files:
            path.unlink(missing_ok=True)
    shutil.rmtree(directory / "trial", ignore_errors=True)
