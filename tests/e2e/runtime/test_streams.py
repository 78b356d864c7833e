"""Exec, attach and port-forward, over SPDY and WebSocket, into real containers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import grpc
import pytest

from tests.e2e.runtime.harness import Client
from tiphys.api.cri import api_pb2 as cri
from tiphys.machinery.streaming import http, websocket
from tiphys.machinery.streaming.bytestream import SocketStream
from tiphys.machinery.streaming.remotecommand import STDERR, STDOUT, Size, Streams, exit_code_of
from tiphys.machinery.streaming.remotecommand_client import run_over_spdy, run_over_websocket
from tiphys.machinery.streaming.spdy_connection import SpdyConnection
from tiphys.machinery.streaming.websocket_connection import WebSocketConnection, WebSocketTunnel

PROTOCOLS = [pytest.param("websocket", id="websocket"), pytest.param("spdy", id="spdy")]


async def lines(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def sizes(*wanted: Size) -> AsyncIterator[Size]:
    for size in wanted:
        yield size


async def run(
    protocol: str,
    url: str,
    streams: Streams,
    stdin: AsyncIterator[bytes] | None = None,
    resize: AsyncIterator[Size] | None = None,
) -> tuple[int | None, dict[int, bytes]]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    collected = {STDOUT: b"", STDERR: b""}

    async def output(channel: int, data: bytes) -> None:
        collected[channel] += data

    if protocol == "websocket":
        status = await run_over_websocket(
            reader, writer, target=parts.path, host=parts.netloc, output=output, stdin=stdin, sizes=resize
        )
    else:
        status = await run_over_spdy(
            reader,
            writer,
            target=parts.path,
            host=parts.netloc,
            streams=streams,
            output=output,
            stdin=stdin,
            sizes=resize,
        )
    writer.close()
    return exit_code_of(status), collected


async def running(client: Client, *argv: str, **more: object) -> str:
    return await client.run(await client.sandbox(), *(argv or ("sleep", "1000")), **more)


async def test_exec_sync(cri_client: Client) -> None:
    container = await running(cri_client)
    done = await cri_client.exec(container, "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.exit_code, done.stdout, done.stderr) == (5, b"out\n", b"err\n")


async def test_exec_sync_timeout(cri_client: Client) -> None:
    container = await running(cri_client)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cri_client.exec(container, "sleep", "777", timeout=1)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert b"sleep 777" not in (await cri_client.exec(container, "ps")).stdout


async def test_exec_sync_of_what_is_not_there(cri_client: Client) -> None:
    container = await running(cri_client)
    with pytest.raises(grpc.aio.AioRpcError, match="executable file not found in \\$PATH"):
        await cri_client.exec(container, "nothing-of-this-name")


async def test_exec_sync_returns_when_a_child_keeps_the_output(cri_client: Client) -> None:
    container = await running(cri_client)
    done = await cri_client.exec(container, "sh", "-c", "sleep 100 & echo started")
    assert done.exit_code == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_exec(cri_client: Client, protocol: str) -> None:
    container = await running(cri_client)
    request = cri.ExecRequest(
        container_id=container, cmd=["sh", "-c", "cat; echo err >&2; exit 3"], stdin=True, stdout=True, stderr=True
    )
    url = (await cri_client.runtime.Exec(request)).url
    big = b"x" * 300_000
    code, output = await run(protocol, url, Streams(True, True, True), lines(b"one\n", big))
    assert (code, output[STDOUT], output[STDERR]) == (3, b"one\n" + big, b"err\n")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_exec_on_a_terminal(cri_client: Client, protocol: str) -> None:
    container = await running(cri_client)
    script = "while [ \"$(stty size)\" != '33 77' ]; do sleep 0.02; done; read line; echo got $line; stty size"
    request = cri.ExecRequest(container_id=container, cmd=["sh", "-c", script], stdin=True, stdout=True, tty=True)
    url = (await cri_client.runtime.Exec(request)).url
    code, output = await run(protocol, url, Streams(True, True, False, True), lines(b"hello\n"), sizes(Size(77, 33)))
    assert code == 0
    assert b"got hello\r\n33 77\r\n" in output[STDOUT]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_attach(cri_client: Client, protocol: str) -> None:
    def interactive(config: cri.ContainerConfig) -> None:
        config.stdin = config.stdin_once = True

    container = await running(
        cri_client, "sh", "-c", "while read line; do echo got $line; done; echo end >&2", edit=interactive
    )
    request = cri.AttachRequest(container_id=container, stdin=True, stdout=True, stderr=True)
    url = (await cri_client.runtime.Attach(request)).url
    code, output = await run(protocol, url, Streams(True, True, True), lines(b"a\n", b"b\n"))
    assert (code, output) == (0, {STDOUT: b"got a\ngot b\n", STDERR: b"end\n"})
    assert (await cri_client.exited(container)).exit_code == 0


async def test_a_token_is_good_once(cri_client: Client) -> None:
    container = await running(cri_client)
    request = cri.ExecRequest(container_id=container, cmd=["true"], stdout=True)
    url = (await cri_client.runtime.Exec(request)).url
    assert (await run("websocket", url, Streams(stdout=True)))[0] == 0
    with pytest.raises(http.HTTPError) as caught:
        await run("websocket", url, Streams(stdout=True))
    assert caught.value.status == 404


async def forward_url(client: Client) -> tuple[str, int]:
    sandbox = await client.sandbox()
    script = "echo hello > /index.html; exec httpd -f -p 8080 -h /"
    container = await client.run(sandbox, "sh", "-c", script)
    await client.exec(container, "sh", "-c", "until wget -q -O- http://127.0.0.1:8080/; do sleep 0.02; done")
    request = cri.PortForwardRequest(pod_sandbox_id=sandbox[0], port=[8080])
    return (await client.runtime.PortForward(request)).url, 8080


GET = b"GET / HTTP/1.0\r\n\r\n"


async def spdy_request(connection: SpdyConnection, number: int, port: int) -> tuple[bytes, bytes]:
    headers = {"port": str(port), "requestID": str(number)}
    error = await connection.open({**headers, "streamType": "error"})
    await error.close_write()
    data = await connection.open({**headers, "streamType": "data"})
    answer = b""
    try:
        await data.write(GET)
        while piece := await data.read():
            answer += piece
    except OSError:
        pass
    problem = b""
    while piece := await error.read():
        problem += piece
    return answer, problem


@pytest.mark.parametrize("tunnelled", [pytest.param(False, id="spdy"), pytest.param(True, id="in a websocket")])
async def test_port_forward(cri_client: Client, tunnelled: bool) -> None:
    url, port = await forward_url(cri_client)
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    if tunnelled:
        request = websocket.request(parts.path, parts.netloc, ["SPDY/3.1+portforward.k8s.io"])
        writer.write(request.encode())
        response = http.parse_response(await http.read_head(reader))
        assert websocket.confirm(request, response) == "SPDY/3.1+portforward.k8s.io"
        tunnel = WebSocketTunnel(WebSocketConnection(SocketStream(reader, writer), server=False))
        connection = SpdyConnection(tunnel, server=False)
    else:
        fields = (
            ("Host", parts.netloc),
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", "portforward.k8s.io"),
        )
        writer.write(http.RequestHead("POST", parts.path, http.Headers(fields)).encode())
        assert http.parse_response(await http.read_head(reader)).status == 101
        connection = SpdyConnection(SocketStream(reader, writer), server=False)
    receiving = asyncio.ensure_future(connection.run())
    for number in range(3):
        answer, problem = await spdy_request(connection, number, port)
        assert answer.endswith(b"hello\n")
        assert problem == b""
    answer, problem = await spdy_request(connection, 9, 81)
    assert answer == b""
    assert b"error forwarding port 81 to pod" in problem
    await connection.close()
    await receiving


async def test_port_forward_over_channels(cri_client: Client) -> None:
    url, port = await forward_url(cri_client)
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    request = websocket.request(parts.path, parts.netloc, ["v4.channel.k8s.io"])
    writer.write(request.encode())
    websocket.confirm(request, http.parse_response(await http.read_head(reader)))
    connection = WebSocketConnection(SocketStream(reader, writer), server=False)
    assert await connection.receive() == b"\0" + port.to_bytes(2, "little")
    assert await connection.receive() == b"\1" + port.to_bytes(2, "little")
    await connection.send(b"\0" + GET)
    answer = b""
    while not answer.endswith(b"hello\n"):
        message = await connection.receive()
        assert message is not None
        answer += message[1:]
    await connection.close()
    await connection.disconnect()
