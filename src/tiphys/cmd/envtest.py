"""`python -m tiphys.cmd.envtest kube-apiserver|etcd FLAGS`: the programs that envtest starts (tiphys.testing.envtest).

envtest gives both the flags of the originals. Those without a meaning here are named on standard error and left out,
since tests set what their own API server needed. etcd's part is its health check: the state is in memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

from tiphys.cmd.errors import UsageError

HEALTHY: Final = b'{"health":"true","reason":""}'


def api_server_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(what the API server is started with, what was left out)."""
    from tiphys.cmd.apiserver import parser

    _, ignored = parser().parse_known_args(arguments)
    kept = [word for word in arguments if word not in ignored]
    return [*kept, "--datastore=memory"], ignored


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.path == "/health"
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(HEALTHY) if known else 0))
        self.end_headers()
        if known:
            self.wfile.write(HEALTHY)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


def serve_health(arguments: Sequence[str]) -> int:
    """Answer etcd's health check at the first of --listen-client-urls until the process is ended."""
    flags = argparse.ArgumentParser(prog="etcd", allow_abbrev=False)
    flags.add_argument("--listen-client-urls", default="http://127.0.0.1:2379")
    found, _ = flags.parse_known_args(arguments)
    url = urlsplit(found.listen_client_urls.split(",")[0])
    with ThreadingHTTPServer((url.hostname or "127.0.0.1", url.port or 2379), _Health) as server:
        server.serve_forever()
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run one of the two programs; its exit status."""
    program, *rest = arguments or [""]
    if program == "etcd":
        return serve_health(rest)
    if program != "kube-apiserver":
        raise UsageError(f'"{program}" is none of kube-apiserver, etcd')
    from tiphys.cmd.main import main as tiphys

    kept, ignored = api_server_arguments(rest)
    for word in ignored:
        print(f"kube-apiserver: {word} has no meaning here and is ignored", file=sys.stderr)
    return tiphys(["apiserver", *kept])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
