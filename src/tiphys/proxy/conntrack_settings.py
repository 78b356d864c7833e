"""How long the kernel remembers connections: kube-proxy's `conntrack` settings, as sysctls of the node's namespace.

Half-closed connections (CLOSE_WAIT) outlive the kernel's minute: a pod may answer long after its client has sent
everything. https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tiphys.base.log import get_logger

log = get_logger(__name__)

SYSCTLS: Final = Path("/proc/sys/net/netfilter")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConntrackSettings:
    """Seconds; 0 leaves the kernel's value as it is."""

    tcp_established: float = 86400.0  # tcpEstablishedTimeout
    tcp_close_wait: float = 3600.0  # tcpCloseWaitTimeout
    tcp_be_liberal: bool = False  # tcpBeLiberal: packets outside of the window are not invalid
    udp: float = 0.0  # udpTimeout
    udp_stream: float = 0.0  # udpStreamTimeout

    def sysctls(self) -> dict[str, int]:
        """Name below /proc/sys/net/netfilter → value, of those that are to be set."""
        wanted = {
            "nf_conntrack_tcp_timeout_established": int(self.tcp_established),
            "nf_conntrack_tcp_timeout_close_wait": int(self.tcp_close_wait),
            "nf_conntrack_tcp_be_liberal": int(self.tcp_be_liberal),
            "nf_conntrack_udp_timeout": int(self.udp),
            "nf_conntrack_udp_timeout_stream": int(self.udp_stream),
        }
        return {name: value for name, value in wanted.items() if value > 0}


def write(settings: ConntrackSettings, directory: Path = SYSCTLS) -> None:
    """Set what differs. A kernel that refuses is reported and worked with as it is."""
    for name, value in settings.sysctls().items():
        file = directory / name
        try:
            if file.read_text().strip() != str(value):
                file.write_text(str(value))
        except OSError as error:
            log.warning("%s cannot be set to %d: %s", name, value, error.strerror)
