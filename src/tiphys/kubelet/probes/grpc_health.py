"""grpc: the gRPC health checking protocol must answer SERVING.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md. The two messages have one field each
and are written by hand: `service` (1, string) and `status` (1, enum).
"""

from __future__ import annotations

from typing import Final

import grpc
import grpc.aio

from tiphys.kubelet.probes.outcome import Outcome, failure, success

METHOD: Final = "/grpc.health.v1.Health/Check"
_STATUSES: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
SERVING: Final = 1


def _request(service: str) -> bytes:
    name = service.encode()
    if not name:
        return b""
    length, size = b"", len(name)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return b"\x0a" + length + bytes([size]) + name


def _status(answer: bytes) -> int:
    return answer[1] if len(answer) >= 2 and answer[0] == 0x08 else 0


async def probe_grpc(host: str, port: int, service: str, timeout: float) -> Outcome:
    """Ask once."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    options = [("grpc.enable_http_proxy", 0), ("grpc.primary_user_agent", "kube-probe/1.36")]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        check = channel.unary_unary(METHOD, request_serializer=_request, response_deserializer=_status)
        try:
            status = await check(service, timeout=timeout)
        except grpc.aio.AioRpcError as problem:
            return failure(_describe(problem, address, timeout))
    if status == SERVING:
        return success("service healthy")
    return failure(f'service unhealthy (responded with "{_STATUSES.get(status, status)}")')


def _describe(problem: grpc.aio.AioRpcError, address: str, timeout: float) -> str:
    match problem.code():
        case grpc.StatusCode.UNIMPLEMENTED:
            return (
                f"this server does not implement the grpc health protocol (grpc.health.v1.Health): {problem.details()}"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.UNAVAILABLE:
            return f'timeout: failed to connect service "{address}" within {timeout:g}s: {problem.details()}'
    return f"error: health rpc failed: {problem.details()}"
