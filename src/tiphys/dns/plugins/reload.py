"""reload: looks at the Corefile now and then and takes over a changed one. https://coredns.io/plugins/reload/"""

from __future__ import annotations

import random
from typing import Final

from tiphys.dns.corefile import Directive
from tiphys.dns.plugin import Plugin, Setup
from tiphys.machinery.time import parse_duration

INTERVAL: Final = "30s"
JITTER: Final = "15s"


def build(directive: Directive, setup: Setup) -> Plugin | None:
    """From `reload [INTERVAL] [JITTER]`; the server does it, this says how often."""
    interval, jitter = (*directive.arguments, INTERVAL, JITTER)[:2] if directive.arguments else (INTERVAL, JITTER)
    if len(directive.arguments) == 1:
        jitter = "0s"
    # Replicas that read one ConfigMap do not all change in one moment.
    extra = random.uniform(0, parse_duration(jitter).total_seconds())
    setup.reload_interval = max(2.0, parse_duration(interval).total_seconds() + extra)
    return None
