"""The programs that envtest starts, with the flags it gives them."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiphys.apiserver.pki import Authority, key_pem, new_key, write_private
from tiphys.testing.envtest import write_assets


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answer(url: str, context: ssl.SSLContext | None = None) -> bytes:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10, context=context) as found:
                return bytes(found.read())
        except urllib.error.HTTPError as error:
            if error.code != 500:
                raise
        except OSError:
            pass
        assert time.monotonic() < deadline, url
        time.sleep(0.05)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[str, str, Path]]:
    """(etcd's URL, the API server's, its certificate directory)."""
    assets, certificates = write_assets(tmp_path / "assets"), tmp_path / "certs"
    authority = Authority.create("envtest")
    admin = authority.client("admin", ["system:masters"])
    for name, data in {"ca.crt": authority.pem, "admin.crt": admin.certificate, "admin.key": admin.key}.items():
        write_private(certificates / name, data)
    write_private(certificates / "sa.key", key_pem(new_key()))
    etcd, server = f"http://127.0.0.1:{free_port()}", free_port()
    flags = {
        "etcd": [f"--data-dir={tmp_path}/data", f"--listen-client-urls={etcd}", "--unsafe-no-fsync"],
        "kube-apiserver": [
            f"--etcd-servers={etcd}",
            f"--cert-dir={certificates}",
            f"--client-ca-file={certificates}/ca.crt",
            f"--service-account-key-file={certificates}/sa.key",
            f"--service-account-signing-key-file={certificates}/sa.key",
            f"--service-account-issuer=https://127.0.0.1:{server}/",
            f"--secure-port={server}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--watch-cache=false",
        ],
    }
    running = [subprocess.Popen([str(assets / name), *flags[name]]) for name in flags]
    try:
        yield etcd, f"https://127.0.0.1:{server}", certificates
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(20) for process in running][1] == 0


def test_what_envtest_starts(started: tuple[str, str, Path]) -> None:
    etcd, server, certificates = started
    assert json.loads(answer(f"{etcd}/health"))["health"] == "true"
    assert answer(f"{server}/readyz", ssl._create_unverified_context()) == b"ok"
    trusting = ssl.create_default_context(cafile=str(certificates / "apiserver.crt"))
    trusting.load_cert_chain(certificates / "admin.crt", certificates / "admin.key")
    assert json.loads(answer(f"{server}/api/v1/namespaces/default", trusting))["kind"] == "Namespace"
