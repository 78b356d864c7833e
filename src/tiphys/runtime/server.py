"""`RuntimeServer`: one node's container runtime, from its options to a socket that answers CRI.

1. take up what an earlier process left: sandboxes, containers, exit codes written meanwhile
2. listen for streams (exec, attach, port-forward) on a loopback address
3. answer CRI on a Unix socket until told to stop; containers run on under their monitors
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from tiphys.api.cri import api_pb2_grpc
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.runtime import linux
from tiphys.runtime.errors import RuntimeFault
from tiphys.runtime.image_service import ImageService
from tiphys.runtime.network import NetworkSetup
from tiphys.runtime.node import Node
from tiphys.runtime.options import RuntimeOptions
from tiphys.runtime.service import RuntimeService

log = get_logger(__name__)

# A list of all containers of a large node, with their annotations, in one message.
MAX_MESSAGE = 64 << 20
STOP_GRACE = 1.0  # seconds for calls under way when the runtime stops


class RuntimeServer:
    """A CRI v1 server. `async run()` serves until it is cancelled; `ready` is set when it answers."""

    def __init__(self, options: RuntimeOptions, network: NetworkSetup) -> None:
        self._options = options
        self._network = network
        self.ready = asyncio.Event()
        # Sandboxes taken up from an earlier process; complete when `ready` is set. The network may free the rest.
        self.recovered: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Serve. Raises OSError when directories or sockets cannot be had."""
        options = self._options
        for directory in (options.root, options.run, options.images, options.exits, options.oci_root):
            directory.mkdir(parents=True, exist_ok=True)
        options.root.chmod(0o711)
        options.socket.parent.mkdir(parents=True, exist_ok=True)
        linux.become_subreaper()
        async with Supervised() as tasks:
            node = Node(options, self._network, tasks)
            runtime, images = RuntimeService(node), ImageService(node)
            try:
                await self._recover(node, runtime)
                await runtime.streams.start()
                await self._serve(runtime, images)
            finally:
                images.close()
                await runtime.streams.stop()
                runtime.containers.close()
                node.close()

    async def _recover(self, node: Node, runtime: RuntimeService) -> None:
        runtime.containers.watch_exits()
        sandboxes = await runtime.sandboxes.load()
        await runtime.containers.recover(sandboxes)
        await runtime.sandboxes.recover()
        self.recovered = frozenset(sandbox.id for sandbox in runtime.sandboxes.all())
        await node.blocking(node.images.collect)
        if sandboxes:
            log.info("took up %d sandboxes and %d containers", len(sandboxes), len(runtime.containers.all()))

    async def _serve(self, runtime: RuntimeService, images: ImageService) -> None:
        server = grpc.aio.server(
            options=[("grpc.max_send_message_length", MAX_MESSAGE), ("grpc.max_receive_message_length", MAX_MESSAGE)]
        )
        api_pb2_grpc.add_RuntimeServiceServicer_to_server(_Guarded(runtime), server)
        api_pb2_grpc.add_ImageServiceServicer_to_server(_Guarded(images), server)
        self._options.socket.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{self._options.socket}")
        await server.start()
        self._options.socket.chmod(0o660)
        log.info("serving CRI v1 on %s", self._options.socket)
        self.ready.set()
        try:
            await server.wait_for_termination()
        finally:
            await server.stop(STOP_GRACE)


class _Guarded:
    """A servicer whose failures are CRI errors: every method of `service`, with exceptions made into codes."""

    def __init__(self, service: object) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._service, name)
        if inspect.isasyncgenfunction(method):
            return _guard_stream(method)
        return _guard(method)


def _guard(method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    @functools.wraps(method)
    async def call(request: Any, context: Any) -> Any:
        try:
            return await method(request, context)
        except RuntimeFault as error:
            await context.abort(error.code, str(error))
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            log.exception("%s failed", method.__name__)
            await context.abort(grpc.StatusCode.UNKNOWN, str(error) or repr(error))

    return call


def _guard_stream(method: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], AsyncIterator[Any]]:
    @functools.wraps(method)
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for message in method(request, context):
                yield message
        except RuntimeFault as error:
            await context.abort(error.code, str(error))

    return call
