"""The calls to a driver's node service, over gRPC on its socket. Each may take two minutes, as upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

import grpc
import grpc.aio

from tiphys.api.csi import csi_pb2 as csi
from tiphys.api.csi import csi_pb2_grpc
from tiphys.kubelet.volumes.plugin import VolumeError

TIMEOUT: Final = 120.0  # seconds
# After these the call may still be under way: what it was to do has to be undone.
_UNCERTAIN: Final = frozenset({"Canceled", "DeadlineExceeded", "Unavailable", "ResourceExhausted", "Aborted"})
# What a driver answers to a size it will never give.
_INFEASIBLE: Final = frozenset({"InvalidArgument", "OutOfRange", "NotFound"})
_NAMES: Final = {"CANCELLED": "Canceled", "OK": "OK"}

R = TypeVar("R")


class CSIError(VolumeError):
    """A call that the driver refused or could not answer."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"rpc error: code = {code} desc = {description}")
        self.code = code

    @property
    def final(self) -> bool:
        """Whether the driver is done with the call and has changed nothing."""
        return self.code not in _UNCERTAIN

    @property
    def infeasible(self) -> bool:
        """Of an expansion: whether trying again cannot help."""
        return self.code in _INFEASIBLE


class CSIClient:
    """One connection to a driver on this node."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        target = endpoint if endpoint.startswith("unix:") else f"unix://{endpoint}"
        # The driver may be restarted at any time: be back within a moment of it.
        options = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 1000)]
        self._channel = grpc.aio.insecure_channel(target, options=options)
        self._node = csi_pb2_grpc.NodeStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def info(self) -> csi.NodeGetInfoResponse:
        return await _call(self._node.NodeGetInfo(csi.NodeGetInfoRequest(), timeout=TIMEOUT))

    async def capabilities(self) -> frozenset[int]:
        """The `NodeServiceCapability.RPC` types the driver has."""
        answer = await _call(self._node.NodeGetCapabilities(csi.NodeGetCapabilitiesRequest(), timeout=TIMEOUT))
        return frozenset(one.rpc.type for one in answer.capabilities)

    async def stage(self, request: csi.NodeStageVolumeRequest) -> None:
        await _call(self._node.NodeStageVolume(request, timeout=TIMEOUT))

    async def unstage(self, request: csi.NodeUnstageVolumeRequest) -> None:
        await _call(self._node.NodeUnstageVolume(request, timeout=TIMEOUT))

    async def publish(self, request: csi.NodePublishVolumeRequest) -> None:
        await _call(self._node.NodePublishVolume(request, timeout=TIMEOUT))

    async def unpublish(self, request: csi.NodeUnpublishVolumeRequest) -> None:
        await _call(self._node.NodeUnpublishVolume(request, timeout=TIMEOUT))

    async def expand(self, request: csi.NodeExpandVolumeRequest) -> csi.NodeExpandVolumeResponse:
        return await _call(self._node.NodeExpandVolume(request, timeout=TIMEOUT))

    async def stats(self, request: csi.NodeGetVolumeStatsRequest) -> csi.NodeGetVolumeStatsResponse:
        return await _call(self._node.NodeGetVolumeStats(request, timeout=TIMEOUT))


async def _call(call: Awaitable[R]) -> R:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        name = error.code().name
        code = _NAMES.get(name) or "".join(word.capitalize() for word in name.split("_"))
        raise CSIError(code, error.details() or "") from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling() > 0:
            raise
        # gRPC raises the same when the driver cancels a call.
        raise CSIError("Canceled", "the driver ended the call") from None
