"""Files that are read again: what is new is passed on once, what cannot be used changes nothing but metrics."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from tiphys.apiserver.authz.configuration import configuration_from
from tiphys.apiserver.configfile import ConfigError
from tiphys.apiserver.http.server import tls_context
from tiphys.apiserver.http.tls import ReloadingTls
from tiphys.apiserver.pki import Authority
from tiphys.apiserver.reload import ConfigController, Watch
from tiphys.base.clock import FakeClock
from tiphys.base.metrics import Registry


def test_a_watch_passes_on_what_is_new(tmp_path: Path) -> None:
    file = tmp_path / "f"
    seen: list[list[bytes]] = []
    file.write_text("a")
    watch = Watch("f", [file], seen.append)
    watch.look()
    file.write_text("bb")
    watch.look()
    watch.look()
    file.unlink()
    watch.look()
    file.write_text("bb")  # as it was
    watch.look()
    assert seen == [[b"bb"]]


def test_metrics_of_a_configuration(tmp_path: Path) -> None:
    file, registry = tmp_path / "f", Registry()
    applied: list[bytes] = []
    file.write_text("a")

    def apply(data: bytes) -> None:
        if b"bad" in data:
            raise ConfigError("bad")
        applied.append(data)

    controller = ConfigController("authorization", file, apply, FakeClock(), registry)

    def shown() -> dict[str, str]:
        lines = registry.expose().decode().splitlines()
        prefix = "apiserver_authorization_config_controller_"
        found = [line.removeprefix(prefix).rsplit(" ", 1) for line in lines if line.startswith(prefix)]
        return {name.partition("{")[0] + name[name.rindex(",") :]: value for name, value in found}

    of_a = "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert shown() == {f'last_config_info,hash="{of_a}"}}': "1"}
    file.write_text("bad")
    controller.watch.look()
    assert shown()['automatic_reloads_total,status="failure"}'] == "1"
    assert f'last_config_info,hash="{of_a}"}}' in shown()
    file.write_text("good")
    controller.watch.look()
    assert applied == [b"good"]
    assert shown()['automatic_reloads_total,status="success"}'] == "1"
    assert f'last_config_info,hash="{of_a}"}}' not in shown()


def authorizers(*items: tuple[str, str]) -> bytes:
    listed = ", ".join(f"{{type: {kind}, name: {name}}}" for kind, name in items)
    return f"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{listed}]".encode()


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([("RBAC", "rbac"), ("Node", "node")], ""),
        ([("RBAC", "rbac"), ("Node", "node"), ("AlwaysAllow", "alwaysallow")], ""),
        ([("RBAC", "rbac")], "missing required types: [Node]"),
        ([("RBAC", "other"), ("Node", "node")], "expected name rbac for authorizer RBAC instead of other"),
        (
            [("AlwaysAllow", "a")],
            "[expected name alwaysallow for authorizer AlwaysAllow instead of a, missing required types: [Node RBAC]]",
        ),
    ],
)
def test_what_may_change_of_the_authorizers(items: list[tuple[str, str]], told: str) -> None:
    found = ""
    try:
        configuration_from(authorizers(*items), ["Node", "RBAC"])
    except ConfigError as error:
        found = str(error)
    assert found == told


async def test_new_connections_meet_the_new_certificate(tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def write(authority: Authority) -> None:
        pair = authority.server("localhost", ["localhost", "127.0.0.1"])
        certificate.write_bytes(pair.certificate)
        key.write_bytes(pair.key)

    old, new = Authority.create("old"), Authority.create("new")
    write(old)
    tls = ReloadingTls(lambda: tls_context(str(certificate), str(key)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.context)
    port = server.sockets[0].getsockname()[1]

    async def trusted(authority: Authority) -> bool:
        context = ssl.create_default_context(cadata=authority.pem.decode())
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        except ssl.SSLError:
            return False
        writer.close()
        return True

    async with server:
        assert await trusted(old) and not await trusted(new)
        write(new)
        tls.reload()
        assert await trusted(new) and not await trusted(old)
        certificate.write_text("garbage")
        with pytest.raises(ValueError, match="PEM"):
            tls.reload()
        assert await trusted(new)
