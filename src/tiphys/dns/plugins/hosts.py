"""hosts: names from a file in the form of /etc/hosts, or written in the Corefile. https://coredns.io/plugins/hosts/"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tiphys.dns.corefile import Directive, zone_name
from tiphys.dns.message import AAAA, A, Reply, address_record
from tiphys.dns.plugin import Next, Plugin, Request, Setup, in_zone

DEFAULT_FILE: Final = "/etc/hosts"
TTL: Final = 3600


@dataclass(slots=True)
class Hosts:
    """Answers A and AAAA; other types, and names it does not have, go on where `fallthrough` says so."""

    addresses: dict[str, list[str]] = field(default_factory=dict)
    ttl: int = TTL
    fallthrough: tuple[str, ...] = ()

    async def serve(self, request: Request, following: Next) -> Reply:
        known = self.addresses.get(request.name)
        if known is None or request.type not in (A, AAAA):
            return await following(request)
        records = [address_record(request.name, each, self.ttl) for each in known]
        matching = [each for each in records if each.type == request.type]
        if not matching and any(in_zone(request.name, zone) for zone in self.fallthrough):
            return await following(request)
        return Reply(answers=matching, authoritative=True)

    def add(self, address: str, names: tuple[str, ...] | list[str]) -> None:
        """Take in one line. Raises ValueError for what is no address."""
        text = str(ipaddress.ip_address(address))
        for name in names:
            self.addresses.setdefault(zone_name(name), []).append(text)


def build(directive: Directive, setup: Setup) -> Plugin:
    """From `hosts [FILE] { [ADDRESS NAMES...] ttl SECONDS fallthrough [ZONES...] }`. Raises CorefileError."""
    made = Hosts()
    inline = False
    for line in directive.block:
        match line.name, line.arguments:
            case "ttl", (value,) if value.isdigit():
                made.ttl = int(value)
            case "fallthrough", names:
                made.fallthrough = tuple(zone_name(name) for name in names) or setup.zones
            case (("reload" | "no_reverse"), _):
                pass
            case address, names if names:
                inline = True
                try:
                    made.add(address, names)
                except ValueError:
                    raise line.error(f"unknown property '{address}'") from None
            case name, _:
                raise line.error(f"unknown property '{name}'")
    path = Path(directive.arguments[0] if directive.arguments else DEFAULT_FILE)
    if path.exists() and not (inline and not directive.arguments):
        for text in path.read_text().splitlines():
            words = text.split("#")[0].split()
            if len(words) > 1:
                try:
                    made.add(words[0], words[1:])
                except ValueError:
                    continue  # a line no resolver understands
    return made
