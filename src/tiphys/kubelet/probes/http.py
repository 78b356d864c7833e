"""httpGet: a status of 200 to 399 within the time is success.

https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/#http-probes.
Redirects on the same host are followed; one to another host counts as success with a warning.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from functools import cache
from typing import Final
from urllib.parse import urljoin, urlsplit

import aiohttp

from tiphys.api.core.v1 import HTTPGetAction
from tiphys.kubelet.probes.outcome import Outcome, failure, success

MAX_BODY: Final = 10 * 1024
MAX_REDIRECTS: Final = 10
USER_AGENT: Final = "kube-probe/1.36"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


def url_of(action: HTTPGetAction, host: str, port: int) -> str:
    """The URL a probe or hook asks; `host` is the pod's address unless the action names another."""
    scheme = (action.scheme or "HTTP").lower()
    where = action.host or host
    shown = f"[{where}]" if ":" in where else where
    path = action.path or "/"
    return f"{scheme}://{shown}:{port}{path if path.startswith('/') else '/' + path}"


def headers_of(action: HTTPGetAction, user_agent: str) -> dict[str, str]:
    """The request's headers; an empty value of Accept or User-Agent takes the header away."""
    headers = {"User-Agent": user_agent, "Accept": "*/*"}
    for header in action.http_headers:
        for known in list(headers):
            if known.lower() == header.name.lower():
                del headers[known]
        if header.value or header.name.lower() not in ("accept", "user-agent"):
            headers[header.name] = header.value
    return headers


async def probe_http(url: str, headers: dict[str, str], timeout: float) -> Outcome:
    """Ask once."""
    try:
        async with asyncio.timeout(timeout):
            return await _ask(url, headers)
    except TimeoutError:
        return failure(f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)')
    except (aiohttp.ClientError, OSError, ValueError) as problem:
        return failure(f'Get "{url}": {describe_error(problem, url)}')


async def fetch(url: str, headers: dict[str, str], timeout: float) -> tuple[int, str]:
    """Status and head of the body, for hooks. Raises aiohttp.ClientError, OSError, TimeoutError."""
    async with (
        asyncio.timeout(timeout),
        _session() as session,
        session.get(url, headers=headers, allow_redirects=False, ssl=_unverified()) as answer,
    ):
        return answer.status, (await answer.content.read(MAX_BODY)).decode(errors="replace")


async def _ask(url: str, headers: dict[str, str]) -> Outcome:
    current = url
    async with _session() as session:
        for _ in range(MAX_REDIRECTS):
            async with session.get(current, headers=headers, allow_redirects=False, ssl=_unverified()) as answer:
                status = answer.status
                body = (await answer.content.read(MAX_BODY)).decode(errors="replace")
                target = answer.headers.get("Location")
            if status in _REDIRECTS and target:
                following = urljoin(current, target)
                if urlsplit(following).hostname != urlsplit(current).hostname:
                    return success(f"Probe terminated redirects, Response body: {body}")
                current = following
                continue
            if 200 <= status < 400:
                return success(body)
            return failure(f"HTTP probe failed with statuscode: {status}")
    return failure(f'Get "{current}": stopped after {MAX_REDIRECTS} redirects')


def describe_error(problem: Exception, url: str) -> str:
    """A connection error in the words users search for."""
    parts = urlsplit(url)
    code = getattr(problem, "os_error", problem)
    number = getattr(code, "errno", None)
    words = {
        errno.ECONNREFUSED: "connect: connection refused",
        errno.EHOSTUNREACH: "connect: no route to host",
        errno.ENETUNREACH: "connect: network is unreachable",
        errno.ETIMEDOUT: "i/o timeout",
        errno.ECONNRESET: "read: connection reset by peer",
    }
    if isinstance(problem, aiohttp.ServerDisconnectedError):
        return "EOF"
    if number in words:
        return f"dial tcp {parts.netloc}: {words[number]}"
    return str(problem)


def _session() -> aiohttp.ClientSession:
    # A connection a probe, as upstream: a kept one would hide a server that accepts no new ones.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), auto_decompress=False)


@cache
def _unverified() -> ssl.SSLContext:
    """Certificates are not checked: the kubelet asks by address, and the answer is only a status."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
