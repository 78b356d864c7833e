"""Kernel parameters of the calling thread's network namespace."""

from __future__ import annotations

from pathlib import Path


class SysctlError(OSError):
    """A parameter could not be set; the text says which."""


def set_sysctl(name: str, value: str) -> bool:
    """Set a parameter, "net/ipv4/ip_forward"; one that does not exist is left out. True when it had another value.

    Raises SysctlError.
    """
    path = Path("/proc/sys") / name
    try:
        if path.read_text().strip() == value:
            return False
        path.write_text(value)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SysctlError(error.errno, f"cannot set {name.replace('/', '.')}: {error.strerror}") from None
    return True


def filter_bridged(*, ipv6: bool = False) -> bool:
    """Let what a bridge carries between two pods of the node pass netfilter too, as Services and policies need.

    True when it was not so before. A setting of the network namespace, not of the machine. Raises SysctlError.
    """
    changed = set_sysctl("net/bridge/bridge-nf-call-iptables", "1")
    return (ipv6 and set_sysctl("net/bridge/bridge-nf-call-ip6tables", "1")) or changed
