"""A real registry (Debian's docker-registry) on loopback, and the client side of pushing to it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from tests.unit.runtime.archives import ImageFiles
from tiphys.runtime.images.elsewhere import LoopElsewhere

BINARY = shutil.which("docker-registry")


# The only user of a private registry; the hash is of the password, as `htpasswd -B` makes it.
USER, PASSWORD = "me", "secret"
PASSWORDS = f"{USER}:$2y$04$3KUxrQIVZkgD2YGWy5ikpOLi29Gmqb1OTBo8QZX.BmzYBrfmFV54q\n"


def _process(directory: Path, port: int, enter: list[str], private: bool) -> subprocess.Popen[bytes]:
    config = directory / "config.yml"
    passwords = directory / "htpasswd"
    passwords.write_text(PASSWORDS)
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {directory}/data\n"
        f"http:\n  addr: 127.0.0.1:{port}\nlog:\n  level: error\n  accesslog:\n    disabled: true\n"
        + (f"auth:\n  htpasswd:\n    realm: tests\n    path: {passwords}\n" if private else "")
    )
    assert BINARY is not None
    with (directory / "log").open("w") as log:
        return subprocess.Popen([*enter, BINARY, "serve", config], stdout=log, stderr=log)


@contextlib.asynccontextmanager
async def registry(netns: Path | None = None, *, private: bool = False) -> AsyncIterator[str]:
    """Its `host:port`, in the network namespace `netns` (or this process's)."""
    with tempfile.TemporaryDirectory(prefix="tphreg") as directory:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with _process(Path(directory), port, ["nsenter", f"--net={netns}"] if netns else [], private) as process:
            try:
                if netns is None:
                    await _answers(port)
                else:
                    there = LoopElsewhere(netns)
                    await there.run(lambda: _answers(port))
                    there.close()
                yield f"127.0.0.1:{port}"
            finally:
                process.terminate()
                process.wait()


async def _answers(port: int) -> None:
    """Return when the registry answers."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        for _ in range(1000):
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/v2/") as response:
                    if response.status in (200, 401):
                        return
            await asyncio.sleep(0.02)
        raise TimeoutError


async def push(host: str, repository: str, tag: str, files: ImageFiles, *, private: bool = False) -> None:
    """Upload every blob and the manifest."""
    headers = {"Authorization": aiohttp.encode_basic_auth(USER, PASSWORD)} if private else {}
    async with aiohttp.ClientSession(f"http://{host}", headers=headers) as session:
        for digest, data in files.blobs.items():
            if digest == files.manifest:
                continue
            async with session.post(f"/v2/{repository}/blobs/uploads/") as response:
                location = response.headers["Location"]
            mark = "&" if "?" in location else "?"
            async with session.put(f"{location}{mark}digest={digest}", data=data) as response:
                assert response.status == 201, await response.text()
        await put_manifest(session, repository, tag, files.blobs[files.manifest])


async def put_manifest(
    session: aiohttp.ClientSession,
    repository: str,
    tag: str,
    body: bytes,
    kind: str = "application/vnd.oci.image.manifest.v1+json",
) -> None:
    headers = {"Content-Type": kind}
    async with session.put(f"/v2/{repository}/manifests/{tag}", data=body, headers=headers) as response:
        assert response.status == 201, await response.text()
