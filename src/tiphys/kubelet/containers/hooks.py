"""postStart and preStop. https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/"""

from __future__ import annotations

from typing import Final

import aiohttp

from tiphys.api.core.v1 import LifecycleHandler
from tiphys.base.clock import Clock
from tiphys.kubelet.cri.client import CRIClient, CRIError
from tiphys.kubelet.pod import AnyContainer
from tiphys.kubelet.probes.http import describe_error, fetch, headers_of, url_of
from tiphys.kubelet.probes.prober import resolve_port

USER_AGENT: Final = "kube-lifecycle/1.36"
HTTP_TIMEOUT: Final = 600.0  # seconds: the hook's own limit is the pod's grace period


class HookError(Exception):
    """The hook failed; the text is worded for the event."""


async def run_hook(
    runtime: CRIClient, clock: Clock, handler: LifecycleHandler, container: AnyContainer, container_id: str, pod_ip: str
) -> None:
    """Run one hook to its end. Raises HookError."""
    try:
        if handler.exec is not None:
            await _command(runtime, container_id, list(handler.exec.command))
        elif handler.http_get is not None:
            url = url_of(handler.http_get, pod_ip, resolve_port(handler.http_get.port or 80, container))
            await _http(url, headers_of(handler.http_get, USER_AGENT))
        elif handler.sleep is not None:
            await clock.sleep(handler.sleep.seconds)
    except ValueError as error:
        raise HookError(str(error)) from error


async def _command(runtime: CRIClient, container_id: str, command: list[str]) -> None:
    try:
        answer = await runtime.exec_sync(container_id, command, 0)
    except CRIError as error:
        raise HookError(str(error)) from error
    if answer.exit_code != 0:
        output = (answer.stdout + answer.stderr).decode(errors="replace")
        raise HookError(f"command '{' '.join(command)}' exited with {answer.exit_code}: {output}")


async def _http(url: str, headers: dict[str, str]) -> None:
    try:
        await fetch(url, headers, HTTP_TIMEOUT)
    except TimeoutError as error:
        raise HookError(f'Get "{url}": context deadline exceeded') from error
    except (aiohttp.ClientError, OSError) as error:
        raise HookError(f'Get "{url}": {describe_error(error, url)}') from error
