"""gzip for large answers, off the event loop: isal at its fastest level releases the GIL while it works."""

from __future__ import annotations

import asyncio

from isal import igzip

from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Response


def accepts_gzip(request: Request) -> bool:
    """Whether the client can read gzip."""
    for clause in request.headers.get("accept-encoding", "").split(","):
        coding, _, parameters = clause.strip().partition(";")
        if coding == "gzip" and parameters.replace(" ", "") != "q=0":
            return True
    return False


async def compressed(request: Request, answer: Response) -> Response:
    """`answer` with a compressed body if the client wants one."""
    encoded = any(name == "Content-Encoding" for name, _ in answer.headers)
    if encoded or request.method == "HEAD" or not accepts_gzip(request):
        return answer
    body = answer.body

    def work() -> bytes:
        whole = body if isinstance(body, bytes) else b"".join(body)
        data: bytes = igzip.compress(whole, compresslevel=1, mtime=0)
        return data

    data = await asyncio.get_running_loop().run_in_executor(None, work)
    headers = [*answer.headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
    return Response(answer.status, data, content_type=answer.content_type, headers=headers)
