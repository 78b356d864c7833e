"""The server that `bench.apiserver` measures, ours or a given one, and the leanest connection to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tiphys.apiserver.pki import Pki
from tiphys.client import RestConfig

TICKS = os.sysconf("SC_CLK_TCK")


class Api:
    """A server, and the processes whose CPU and memory it is."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext, processes: Sequence[int]) -> None:
        self.host, self.port, self.tls, self.processes = host, port, tls, processes

    def cpu(self) -> float:
        """CPU seconds used so far."""
        found = 0
        for pid in self.processes:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found += int(fields[11]) + int(fields[12])
        return found / TICKS

    def memory(self) -> float:
        """Proportional set size in MB."""
        found = 0
        for pid in self.processes:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                found += int(line.split()[1]) if line.startswith("Pss:") else 0
        return found / 1024

    async def ready(self) -> None:
        """Wait until it is."""

    def stop(self) -> None:
        """End it, if it is ours."""


class Given(Api):
    """The server of a kubeconfig."""

    def __init__(self, kubeconfig: Path, processes: Sequence[int]) -> None:
        config = RestConfig.from_kubeconfig(kubeconfig)
        parts, tls = urlsplit(config.server), config.ssl_context()
        if tls is None or parts.hostname is None or not config.cert_data:
            raise SystemExit("the kubeconfig needs an https server and a client certificate")
        super().__init__(parts.hostname, parts.port or 443, tls, processes)


class Server(Api):
    """A process of ours."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        pki = Pki(directory / "pki")
        serving = pki.server("apiserver", "kube-apiserver", ["127.0.0.1"])
        admin = pki.client("admin", "kubernetes-admin", ["system:masters"])
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from tiphys.cmd.main import main; sys.exit(main(sys.argv[1:]))",
                "apiserver",
                "--bind-address=127.0.0.1",
                "--secure-port=26443",
                f"--datastore=sqlite:{directory / 'state'}",
                f"--tls-cert-file={serving}.crt",
                f"--tls-private-key-file={serving}.key",
                f"--client-ca-file={directory / 'pki' / 'ca.crt'}",
                f"--service-account-signing-key-file={pki.service_account_key}",
                f"--cache-directory={directory / 'cache'}",
            ],
            stderr=(directory / "log").open("wb"),
        )
        tls = ssl.create_default_context(cafile=str(directory / "pki" / "ca.crt"))
        tls.load_cert_chain(f"{admin}.crt", f"{admin}.key")
        self.started = started
        super().__init__("127.0.0.1", 26443, tls, [self.process.pid])

    async def ready(self) -> None:
        while True:
            try:
                connection = await Connection.open(self)
                status, _ = await connection.call("GET", "/readyz")
                await connection.close()
                if status == 200:
                    break
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit((self.directory / "log").read_text()) from None
            await asyncio.sleep(0.01)
        print(f"{'process start to ready':<48}{time.perf_counter() - self.started:>10.2f} s", flush=True)
        print(f"{'memory, idle':<48}{self.memory():>10,.0f} MB", flush=True)

    def stop(self) -> None:
        """End the process."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Connection:
    """A keep-alive connection that does as little as a client can."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, server: Api) -> Connection:
        return cls(*await asyncio.open_connection(server.host, server.port, ssl=server.tls, limit=1 << 20))

    async def call(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> tuple[int, bytes]:
        """One request; (status, body)."""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: bench/1\r\nAccept: application/json\r\n"
        if body:
            head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        self.writer.write(head.encode() + b"\r\n" + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        length = answer.find(b"Content-Length: ") + 16
        if length > 15:
            data = await self.reader.readexactly(int(answer[length : answer.index(b"\r", length)]))
        else:
            data = await self._chunks()
        return int(answer[9:12]), data

    async def _chunks(self) -> bytes:
        pieces = []
        while size := int(await self.reader.readline(), 16):
            pieces.append(await self.reader.readexactly(size))
            await self.reader.readline()
        await self.reader.readline()
        return b"".join(pieces)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()


class Watching(asyncio.Protocol):
    """A watch that looks for the names of objects as the bytes come, without streams, tasks and decoding.

    With a thousand of them on one core anything more would measure the client.
    """

    def __init__(self, request: bytes, prefix: bytes, seen: Callable[[bytes], None]) -> None:
        """`seen` is called with the name of each object whose name has the prefix."""
        self._request = request
        self._mark = b'"metadata":{"name":"' + prefix
        self._offset = len(self._mark) - len(prefix)
        self._seen = seen
        self._left = b""
        self._transport: asyncio.Transport | None = None
        self._begun = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, server: Api, path: str, prefix: bytes, seen: Callable[[bytes], None]) -> Watching:
        """A watch that has begun."""
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: bench/1\r\nAccept: application/json\r\n\r\n"
        loop = asyncio.get_running_loop()
        made = cls(request.encode(), prefix, seen)
        await loop.create_connection(lambda: made, server.host, server.port, ssl=server.tls)
        await made._begun
        return made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports do not inherit asyncio's
        transport.write(self._request)  # type: ignore[attr-defined]  # as above

    def data_received(self, data: bytes) -> None:
        """Find names; one that is cut is looked for again with what follows."""
        if not self._begun.done() and b"\r\n\r\n" in data:
            self._begun.set_result(None)
        data = self._left + data if self._left else data
        at = data.find(self._mark)
        end = 0
        while at >= 0:
            begin = at + self._offset
            end = data.find(b'"', begin)
            if end < 0:
                self._left = data[at:]
                return
            self._seen(data[begin:end])
            at = data.find(self._mark, end)
        self._left = data[max(end, len(data) - len(self._mark)) :]

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.abort()
