"""An API server that is killed and comes back, and a plain HTTP client of it."""

from __future__ import annotations

import base64
import json
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

TOKEN = "a-token-of-the-test"


def lasting_port() -> int:
    """A free port that no outgoing connection takes while the server is down: below those the kernel gives away."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RestartableServer:
    """`tiphys apiserver` with its state in a directory; `kill` is SIGKILL, `start` returns when it is ready."""

    def __init__(self, directory: Path) -> None:
        self.port = lasting_port()
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        (directory / "tokens").write_text(f'{TOKEN},admin,1,"system:masters"\n')
        self._process: subprocess.Popen[bytes] | None = None
        self._tls: ssl.SSLContext | None = None

    def start(self) -> None:
        """Start it, on the same port as before."""
        flags = [f"--secure-port={self.port}", f"--datastore=sqlite:{self.directory}/state"]
        flags += [f"--cert-dir={self.directory}/certs", f"--token-auth-file={self.directory}/tokens"]
        flags += ["--disable-admission-plugins=ServiceAccount"]
        with (self.directory / "log").open("ab") as log:
            command = [sys.executable, "-m", "tiphys.cmd.main", "apiserver", *flags]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not self._ready():
            assert self._process.poll() is None and time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.02)
        if not self.kubeconfig.exists():
            self._write_kubeconfig()

    def kill(self) -> None:
        """End it at once, whatever it does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
        """(status, decoded answer) of one request; OSError when there is no answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
        request = urllib.request.Request(self._url + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=120, context=self._tls) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    @property
    def _url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def _ready(self) -> bool:
        certificate = self.directory / "certs" / "apiserver.crt"
        try:
            if self._tls is None:
                self._tls = ssl.create_default_context(cafile=str(certificate))
            with urllib.request.urlopen(f"{self._url}/readyz", timeout=5, context=self._tls):
                return True
        except OSError:
            return False

    def _write_kubeconfig(self) -> None:
        authority = base64.b64encode((self.directory / "certs" / "apiserver.crt").read_bytes()).decode()
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": self._url, "certificate-authority-data": authority}},
            ],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        self.kubeconfig.write_text(yaml.safe_dump(document))
