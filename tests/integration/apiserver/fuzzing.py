"""For the fuzz tests: an API server on a thread of its own, plain sockets to it, and bodies made from the schema."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from random import Random
from typing import Any, Final

from tiphys.apiserver.options import ServerOptions
from tiphys.apiserver.security import secured_server
from tiphys.cmd.apiserver import start
from tiphys.machinery.schema import FieldSchema, TypeSchema

SERVER_THREAD: Final = "fuzz-target"
TIMEOUT: Final = 20.0  # seconds a request may take before the server counts as stuck

# Answers 500 that Kubernetes itself gives, by these words, to requests of this form.
KUBERNETES_OWN: Final = (
    b"failed to create typed patch object",
    b"failed to convert new object",
    b"does not contain declared merge key",
    b"lists of lists are not supported",
    b"list element types are not identical",
    b"resourceVersion should not be set on objects to be created",
    b"target.kind: Unsupported value",
    b"target.name: Required value",
    b"strconv.ParseUint",
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    content_type: str
    body: bytes


class Target:
    """The server, as its clients see it, and the errors it logged."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.errors: list[str] = []
        self.answers: Counter[int] = Counter()  # by status code
        self.slowest = 0.0  # seconds

    def connect(self) -> socket.socket:
        """A connection to write bytes to."""
        return socket.create_connection((self.host, self.port), timeout=TIMEOUT)

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Reply:
        """One request on a connection of its own. OSError or HTTPException when there is no whole answer."""
        with closing(HTTPConnection(self.host, self.port, timeout=TIMEOUT)) as connection:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            began = time.monotonic()
            try:
                connection.request(method, target, body, given)
                answer = connection.getresponse()
                reply = Reply(answer.status, answer.getheader("Content-Type", ""), answer.read())
            except TimeoutError as error:
                error.add_note(f"{method} {target} {body!r} {given}\n{self._doing()}")
                raise
        self.answers[reply.status] += 1
        self.slowest = max(self.slowest, time.monotonic() - began)
        return reply

    def _doing(self) -> str:
        """Where the server's thread is now, and the load of the machine."""
        frames = sys._current_frames()
        threads = [each.ident for each in threading.enumerate() if each.name == SERVER_THREAD]
        stacks = ["".join(traceback.format_stack(frames[ident])) for ident in threads if ident in frames]
        return "\n".join([f"load {os.getloadavg()}", *stacks])

    def raw(self, data: bytes, *, half_close: bool = False) -> bytes:
        """Send bytes as they are; what comes back until the server closes or falls silent."""
        received = b""
        with self.connect() as connection:
            connection.settimeout(2.0)
            try:
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65536):
                    received += piece
                    if len(received) > 1 << 20:
                        break
            except OSError:
                pass
        code = received[9:12] if received.startswith(b"HTTP/1.1 ") else b""
        self.answers[int(code) if code.isdigit() else 0] += 1
        return received

    def figures(self) -> str:
        """What was asked and answered so far; 0 is a connection closed without an answer."""
        codes = ", ".join(f"{code}: {count:,}" for code, count in sorted(self.answers.items()))
        return f"{self.answers.total():,} requests, the slowest {self.slowest:.2f} s; answers {codes}"


class _Errors(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.append(self.format(record))


@contextmanager
def running_target(**options: Any) -> Iterator[Target]:
    """A server with every admission plug-in; whoever asks is an administrator."""
    ready: list[Target] = []
    failure: list[BaseException] = []
    up = threading.Event()
    end: list[Callable[[], object]] = []

    async def serve() -> None:
        modes = ("AlwaysAllow",)
        server = secured_server(ServerOptions(port=0, store="memory", authorization_modes=modes, **options))
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        end.append(lambda: loop.call_soon_threadsafe(stop.set))
        try:
            await start(server)
            ready.append(Target(*server.addresses[0]))
            up.set()
            await stop.wait()
        finally:
            await server.stop()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failure.append(error)
            up.set()

    thread = threading.Thread(target=run, name=SERVER_THREAD)
    thread.start()
    up.wait()
    if failure:
        raise failure[0]
    errors = _Errors(ready[0].errors)
    logging.getLogger().addHandler(errors)
    try:
        yield ready[0]
    finally:
        logging.getLogger().removeHandler(errors)
        end[0]()
        thread.join()


def problem(reply: Reply) -> str:
    """What is wrong with an answer to bad input; "" when nothing is."""
    if reply.status < 400:
        return ""
    if reply.status >= 500 and reply.status not in (501, 503, 504):
        return f"status {reply.status}: {reply.body[:2000]!r}"
    if reply.content_type.startswith("text/plain"):
        return "" if reply.status == 404 and reply.body == b"404 page not found\n" else f"plain text: {reply!r}"
    try:
        status = json.loads(reply.body)
    except ValueError:
        # Other encodings of a Status are as good.
        return "" if "json" not in reply.content_type else f"no JSON: {reply!r}"
    if not isinstance(status, dict) or status.get("kind") != "Status" or status.get("code") != reply.status:
        return f"no Status: {reply!r}"
    return ""


def judge(reply: Reply) -> None:
    """AssertionError for an answer bad input must not get."""
    if reply.status == 500 and any(words in reply.body for words in KUBERNETES_OWN):
        return
    found = problem(reply)
    assert not found, found


# --- bodies -----------------------------------------------------------------------------------------------------------
TEXTS: Final = (
    "",
    "a",
    "A",
    "a.b",
    "-",
    "/",
    "..",
    "x" * 64,
    "x" * 300,
    "ü",
    "\u2028",
    "😀",
    "\x00",
    "a\nb",
    "*",
    "None",
    "Always",
    "TCP",
    "0",
    "-1",
    "1Gi",
    "1e400",
    "99999999999999999999m",
    "10.0.0.1",
    "::1",
    "10.0.0.0/8",
    "1.2.3.4/33",
    "fe80::1%eth0",
    "2024-01-01T00:00:00Z",
    "9999-99-99T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "100%",
    "-5%",
    "a=b",
    "{}",
    "$(X)",
    "{{",
    "* * * * *",
    "@every 1h",
    "TZ=Mars/Base 1 * * * *",
    "object.x",
    "self.all(",
    "application/json",
    "https://[::1",
    "http://a b",
    "kubernetes.io/x",
    "a/b/c",
    "Ym9keQ==",
    "%zz",
)
NUMBERS: Final = (
    0,
    1,
    -1,
    2,
    3,
    80,
    65535,
    65536,
    2**31 - 1,
    2**31,
    -(2**31),
    2**53,
    2**63 - 1,
    2**63,
    -(2**63),
    10**30,
)
OTHERS: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    1.5,
    -0.0,
    1e308,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": 1},
    [{}],
    "x",
    7,
)
DEPTH: Final = 9


def value_of(schema: FieldSchema, rng: Random, depth: int = 0, wrong: float = 0.02) -> Any:
    """A value that mostly has the right shape; `wrong` is the chance of any other JSON at each place."""
    if rng.random() < wrong:
        return rng.choice(OTHERS)
    match schema.kind:
        case "[":
            assert schema.items is not None
            return [value_of(schema.items, rng, depth + 1, wrong) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
        case "{":
            assert schema.items is not None
            count = rng.choice((0, 1, 1, 2))
            return {rng.choice(TEXTS): value_of(schema.items, rng, depth + 1, wrong) for _ in range(count)}
        case "@":
            return {} if schema.type is None else struct_of(schema.type, rng, depth + 1, wrong)
        case "i" | "l":
            return rng.choice(NUMBERS[:12]) if rng.random() < 0.9 else rng.choice(NUMBERS)
        case "f":
            return rng.choice((*NUMBERS, 0.5))
        case "b":
            return rng.random() < 0.5
        case "x":
            return rng.choice((*NUMBERS, *TEXTS))
        case "t" | "u":
            return rng.choice(("2024-01-01T00:00:00Z", "2024-01-01T00:00:00.000001Z", *TEXTS[-4:]))
        case "q":
            return rng.choice(("1", "0", "-1", "1Gi", "100m", "1e3", "1e400", "1.5", 1, 2**63, *TEXTS[:3]))
        case "y":
            return rng.choice(("", "Ym9keQ==", "///", "?"))
        case "s":
            return rng.choice(TEXTS)
    return rng.choice((*OTHERS, {"a": [1, {"b": None}]}))


def struct_of(schema: TypeSchema, rng: Random, depth: int = 0, wrong: float = 0.02) -> dict[str, Any]:
    """An object of a type: each field with a chance that falls with the depth."""
    found: dict[str, Any] = {}
    chance = 0.75 if depth < 2 else 0.25 if depth < DEPTH else 0.0
    for name, one in schema.fields.items():
        if rng.random() < (max(chance, 0.8 if depth < DEPTH else 0) if one.required else chance):
            found[name] = value_of(one, rng, depth, wrong)
    if rng.random() < wrong:
        found[rng.choice(TEXTS)] = rng.choice(OTHERS)
    return found


def spoiled(data: bytes, rng: Random) -> bytes:
    """Bytes with one thing broken: cut, doubled, a byte changed, or something strange put in."""
    at = rng.randrange(len(data) + 1)
    strange: Sequence[bytes] = (
        b"\x00",
        b"\xff\xfe",
        b'"',
        b"{",
        b"}",
        b"[" * 50,
        b"\\ud800",
        b"1e999",
        b",",
        b"\r\n",
        b"k8s\x00",
    )
    match rng.randrange(4):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[at:] * 2
        case 2:
            return data[:at] + rng.choice(strange) + data[at:]
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


__all__ = ["HTTPException", "Reply", "Target", "problem", "running_target", "spoiled", "struct_of", "value_of"]
