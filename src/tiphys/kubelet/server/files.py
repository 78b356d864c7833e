"""/logs/: the node's log files, as a browser reads them: directories as lists of links, files as text.

    /logs/                   what is in /var/log, or `pods/` alone where the kubelet keeps pods' logs elsewhere
    /logs/pods/NAMESPACE_POD_UID/CONTAINER/0.log

What a link leads to outside of the directory is not served: pods that may write there could show any file of the node.
https://kubernetes.io/docs/concepts/cluster-administration/system-logs/#log-locations
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tiphys.kubelet.server.http import Response, text

SYSTEM_LOGS: Final = Path("/var/log")
PODS: Final = "pods"
PIECE: Final = 64 * 1024
HTML: Final = "text/html; charset=utf-8"


class LogFiles:
    """Serves them; `pod_logs` is the directory of pods' logs."""

    def __init__(self, pod_logs: Path) -> None:
        self._pod_logs = pod_logs
        self._system = pod_logs.is_relative_to(SYSTEM_LOGS)

    async def answer(self, path: str, parts: Sequence[str]) -> Response:
        """What is at `parts` below /logs; `path` is the request's, which ends with "/" where a directory is read."""
        return await asyncio.to_thread(self._answer, path, parts)

    def _answer(self, path: str, parts: Sequence[str]) -> Response:
        if not parts and not self._system:
            return _listing([f"{PODS}/"])
        found = self._find(parts)
        if found is None:
            return text(404, "404 page not found\n")
        if found.is_dir():
            if not path.endswith("/"):
                # Relative links of the list count from here.
                return Response(status=301, headers={"Location": quote(path.rpartition("/")[2]) + "/"})
            return _listing([f"{one.name}/" if one.is_dir() else one.name for one in found.iterdir()])
        return Response(stream=_content(found))

    def _find(self, parts: Sequence[str]) -> Path | None:
        """The file or directory meant; None for what is not there or lies elsewhere."""
        root = SYSTEM_LOGS if self._system else self._pod_logs
        if not self._system:
            if parts[0] != PODS:
                return None
            parts = parts[1:]
        try:
            found = root.joinpath(*parts).resolve(strict=True)
        except (OSError, ValueError):  # not there, a loop, a zero byte
            return None
        inside = found.is_relative_to(root.resolve())
        return found if inside and (found.is_dir() or found.is_file()) else None


def _listing(names: Sequence[str]) -> Response:
    links = "".join(f'<a href="{quote(name)}">{html.escape(name)}</a>\n' for name in sorted(names))
    page = f'<!doctype html>\n<meta name="viewport" content="width=device-width">\n<pre>\n{links}</pre>\n'
    return Response(body=page.encode(), content_type=HTML)


async def _content(file: Path) -> AsyncGenerator[bytes, None]:
    opened = await asyncio.to_thread(open, file, "rb")
    try:
        while data := await asyncio.to_thread(opened.read, PIECE):
            yield data
    finally:
        opened.close()
