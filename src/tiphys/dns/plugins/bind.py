"""bind: the addresses a server block listens on; without it, all. https://coredns.io/plugins/bind/"""

from __future__ import annotations

import ipaddress

from tiphys.dns.corefile import Directive
from tiphys.dns.plugin import Plugin, Setup


def build(directive: Directive, setup: Setup) -> Plugin | None:
    """From `bind ADDRESS...`. Raises CorefileError for what is no address."""
    for each in directive.arguments:
        try:
            setup.bind.append(str(ipaddress.ip_address(each)))
        except ValueError:
            raise directive.error(f"not a valid IP address: {each}") from None
    return None
