"""Endpoints that come and go, told to the running HAProxy: no reload, no lost connection.

https://docs.haproxy.org/2.6/management.html#9.3 (set server)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tiphys.ingress.haproxy.backends import Server, Slots
from tiphys.ingress.haproxy.process import Haproxy, HaproxyError

BATCH: Final = 200  # commands a message
REFUSALS: Final = ("No such", "Require", "Unknown", "Invalid", "not found", "Permission")

Changes = Mapping[int, Server | None]


def commands_for(section: str, changes: Changes) -> Iterator[str]:
    """What to say so that the slots are as they should be."""
    for index, server in sorted(changes.items()):
        name = f"{section}/s{index}"
        if server is None:
            # New requests go elsewhere; those under way end as they will.
            yield f"set server {name} state maint"
            continue
        yield f"set server {name} addr {server.address} port {server.port}"
        yield f"set server {name} weight {server.weight}"
        yield f"set server {name} state ready"


async def tell(proxy: Haproxy, changes: Mapping[str, Changes]) -> None:
    """Change servers by section. Raises HaproxyError when the process does not know them: then it needs a reload."""
    commands = [line for section, each in sorted(changes.items()) for line in commands_for(section, each)]
    for start in range(0, len(commands), BATCH):
        answer = await proxy.ask(commands[start : start + BATCH])
        if any(word in answer for word in REFUSALS):
            raise HaproxyError(f"haproxy refused a change of servers: {' '.join(answer.split())[:300]}")


def everything(slots: Mapping[str, Slots]) -> dict[str, Changes]:
    """All slots of all sections: for a process that was configured by somebody else, at another time."""
    return {section: dict(enumerate(each.servers)) for section, each in slots.items()}
