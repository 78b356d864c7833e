"""Egress: how this server reaches the pod network, of which its own machine need not be a part.

On a machine that holds whole clusters the nodes live in network namespaces, and two clusters may give their pods the
same addresses. A connection to a pod or a service address is therefore opened inside a node: a socket belongs to the
namespace it was made in, whoever uses it later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Final

from tiphys.base.netns import call_in

NODE: Final = "{node}"


@dataclass(frozen=True, slots=True)
class Egress:
    """`namespaces` is the path of a node's network namespace with `{node}` in it; "" when the pod network is ours."""

    namespaces: str = ""

    def namespace(self, node: str = "") -> str:
        """Where to connect from: the node's own namespace, else any node's; "" is this process's."""
        if not self.namespaces:
            return ""
        own = self.namespaces.replace(NODE, node)
        if node and Path(own).exists():
            return own
        return next(iter(sorted(glob(self.namespaces.replace(NODE, "*")))), "")


async def connect(namespace: str, host: str, port: int) -> socket.socket:
    """A connected socket of a network namespace. `host` is an address. Raises OSError, ValueError for a name."""
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    made = await asyncio.to_thread(call_in, namespace, lambda: socket.socket(family, socket.SOCK_STREAM))
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (host, port))
    except BaseException:
        made.close()
        raise
    return made
