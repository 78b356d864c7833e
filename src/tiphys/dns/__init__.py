"""Cluster DNS, as CoreDNS answers: a Corefile chooses plugins, `table` their order.

Runs in a container of kube-system, so it imports little: the client, the types, and itself.
"""

from typing import Final

from tiphys.dns.corefile import CorefileError
from tiphys.dns.server import DnsServer

# Third-party packages the system image must contain for `tiphys dns`; uvloop only makes it faster.
IMAGE_PACKAGES: Final = ("httptools", "msgspec", "orjson", "PyYAML", "uvloop")

__all__ = ["IMAGE_PACKAGES", "CorefileError", "DnsServer"]
