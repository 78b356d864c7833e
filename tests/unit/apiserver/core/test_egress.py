"""Where connections to pods are made from."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tiphys.apiserver.http.egress import Egress, connect


@pytest.mark.parametrize(
    ("there", "node", "found"),
    [
        pytest.param(("c-n1", "c-n2"), "n2", "c-n2", id="the pod's own node"),
        pytest.param(("c-n1", "c-n2"), "elsewhere", "c-n1", id="any node of this machine"),
        pytest.param(("c-n1",), "", "c-n1", id="nobody knows the node"),
        pytest.param(("d-n1",), "n1", "", id="no node here"),
    ],
)
def test_the_namespace_is_that_of_the_node(tmp_path: Path, there: tuple[str, ...], node: str, found: str) -> None:
    for name in there:
        (tmp_path / name).touch()
    egress = Egress(f"{tmp_path}/c-{{node}}")
    assert egress.namespace(node) == (f"{tmp_path}/{found}" if found else "")


def test_without_namespaces_this_process_connects() -> None:
    assert Egress().namespace("n1") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="entering a network namespace needs root")
async def test_a_socket_connects_from_its_namespace() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        made = await connect("/proc/self/ns/net", "127.0.0.1", port)
        with made:
            assert await asyncio.get_running_loop().sock_recv(made, 5) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        await connect("/proc/self/ns/net", "127.0.0.1", port)
