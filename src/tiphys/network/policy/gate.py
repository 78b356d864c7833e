"""Where a new pod waits until its policies are in force: a Unix socket of the node's policy agent.

The CNI side asks as soon as the pod has its addresses, before anything runs in it, and goes on
when the answer comes; so there is no first packet without policies. One line of JSON each way:

    → {"sandbox": "3f2a…", "pod": "default/web-1", "ips": ["10.244.1.5"]}
    ← {}

What survives a crash of either side: the files of address management say which pod has which
address, and the agent reads them when it starts; the socket's file says that there is an agent,
also while it is being started again, so that nobody slips through meanwhile (the pod then fails to
start, with this as the reason, and is tried again). A node without the file has no policies.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tiphys.machinery.meta import ObjectName

SOCKET_NAME: Final = "policy.sock"
WAIT: Final = 15.0  # seconds; the kubelet tries a pod that fails again
RETRY: Final = 0.1


class NotAdmittedError(Exception):
    """The policy agent did not say in time that a pod's policies are in force; the text is for the pod's event."""


# Called with a pod and its addresses; returns when its policies are in force.
Admit = Callable[[ObjectName, tuple[str, ...]], Awaitable[None]]


async def wait_admitted(path: Path, sandbox: str, pod: ObjectName, ips: Sequence[str], wait: float = WAIT) -> None:
    """Return when the pod's policies are in force. Raises NotAdmittedError when the agent does not say so in time."""
    question = json.dumps({"sandbox": sandbox, "pod": str(pod), "ips": list(ips)}).encode() + b"\n"
    try:
        async with asyncio.timeout(wait):
            while True:
                if await _ask(str(path), question):
                    return
                await asyncio.sleep(RETRY)
    except TimeoutError:
        raise NotAdmittedError(f"network policies of the pod are not in force after {wait:g} s") from None


async def _ask(path: str, question: bytes) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except FileNotFoundError:
        return True  # no policies on this node
    except ConnectionRefusedError:
        return False  # the agent is being started again
    try:
        writer.write(question)
        return bool(await reader.readline())
    except ConnectionError:
        return False
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def serve(path: Path, admit: Admit) -> asyncio.Server:
    """Answer on the socket until the server is closed. Its file stays: it stands for the agent to come."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, ValueError, KeyError, TypeError):
                question = json.loads(await reader.readline())
                namespace, _, name = question["pod"].rpartition("/")
                await admit(ObjectName(namespace, name), tuple(question["ips"]))
                writer.write(b"{}\n")
                await writer.drain()
        finally:
            writer.close()

    return await asyncio.start_unix_server(answer, sock=_bound(path))


def _bound(path: Path) -> socket.socket:
    """A listening socket that takes the place of an earlier one at once: the file is never missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.bind(str(temporary))
        made.listen()
        temporary.replace(path)
    except BaseException:
        made.close()
        raise
    return made


def allocated(addresses: Path) -> dict[ObjectName, tuple[str, ...]]:
    """The pods of the node and their addresses by the files of address management; damaged ones are left out."""
    found: dict[ObjectName, tuple[str, ...]] = {}
    for path in sorted(addresses.glob("[0-9a-f]*[.:]*")) if addresses.is_dir() else ():
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            namespace, _, name = json.loads(path.read_bytes())["pod"].partition("/")
            pod = ObjectName(namespace, name)
            found[pod] = (*found.get(pod, ()), path.name)
    return found
