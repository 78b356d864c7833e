"""Every plugin, in the order in which a query meets them: CoreDNS' plugin.cfg.

The order in a Corefile means nothing. Those built to None only set something up.
"""

from __future__ import annotations

from typing import Final

from tiphys.dns.plugin import Builder
from tiphys.dns.plugins import (
    bind,
    cache,
    errors,
    forward,
    health,
    hosts,
    kubernetes,
    loadbalance,
    log,
    loop,
    prometheus,
    ready,
    reload,
)

PLUGINS: Final[dict[str, Builder]] = {
    "reload": reload.build,
    "bind": bind.build,
    "ready": ready.build,
    "health": health.build,
    "prometheus": prometheus.build,
    "errors": errors.build,
    "log": log.build,
    "loadbalance": loadbalance.build,
    "cache": cache.build,
    "hosts": hosts.build,
    "kubernetes": kubernetes.build,
    "loop": loop.build,
    "forward": forward.build,
}
