"""What the kernel has of iptables: chains, how many rules each has, and which of ours are jumped to from others'.

iptables-save of the nftables variant takes minutes for the chains of some thousand Services (it looks a rule's chain
up in a list) and falls over with more. The kernel is asked for them instead, by netlink (nfnetlink, nf_tables.h), in
time proportional to them; only the legacy variant, which the kernel shows to nobody else, is read from iptables-save.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from tiphys.base.netlink import Netlink, attribute, attributes
from tiphys.proxy.iptables.chains import LISTS, PREFIXES
from tiphys.proxy.iptables.state import FIXED

TABLES: Final = ("nat", "filter")
# NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, NFT_MSG_GETRULE
_GET_CHAIN, _GET_RULE = 10 << 8 | 4, 10 << 8 | 7
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_FAMILIES: Final = {"ip": 2, "ip6": 10}
_TARGET: Final = re.compile(rb"(KUBE-[A-Z0-9-]+)\0")
_OURS: Final = frozenset(name for _, name in (*FIXED, *LISTS))


def is_ours(chain: str) -> bool:
    """Whether the proxy makes chains of this name."""
    return chain in _OURS or chain.startswith(PREFIXES)


@dataclass(slots=True)
class Found:
    """`counts`: table → chain → number of rules. `jumps`: (table, chain of others, chain of ours)."""

    counts: dict[str, dict[str, int]] = field(default_factory=lambda: {table: {} for table in TABLES})
    jumps: set[tuple[str, str, str]] = field(default_factory=set)

    def add_rule(self, table: str, chain: str, targets: Callable[[], Iterator[str]]) -> None:
        """One rule more; `targets` is asked for what it may jump to where that matters."""
        chains = self.counts[table]
        chains[chain] = chains.get(chain, 0) + 1
        if not is_ours(chain):
            self.jumps.update((table, chain, target) for target in targets() if is_ours(target))


def from_kernel(channel: Netlink, family: str) -> Found:
    """By netlink; `channel` is of NETLINK_NETFILTER, `family` ip or ip6. Blocking."""
    found = Found()
    body = bytes((_FAMILIES[family], 0, 0, 0))
    for payload in channel.dump(_GET_CHAIN, body):
        values = dict(attributes(payload, len(body)))
        if (table := _text(values[_CHAIN_TABLE])) in found.counts:
            found.counts[table][_text(values[_CHAIN_NAME])] = 0
    for table in TABLES:
        for payload in channel.dump(_GET_RULE, body + attribute(_RULE_TABLE, table.encode() + b"\0")):
            values = dict(attributes(payload, len(body)))

            found.add_rule(table, _text(values[_RULE_CHAIN]), partial(_targets, values.get(_RULE_EXPRESSIONS, b"")))
    return found


def from_text(saved: str) -> Found:
    """From what iptables-save says."""
    found = Found()
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif table not in found.counts:
            continue
        elif line.startswith(":"):
            found.counts[table].setdefault(line[1:].split()[0], 0)
        elif line.startswith("-A "):
            target = line.rpartition("-j ")[2]
            found.add_rule(table, line.split(" ", 2)[1], partial(iter, (target,)))
    return found


def _targets(expressions: bytes) -> Iterator[str]:
    """The chains verdicts lead to: NFTA_VERDICT_CHAIN, and not what a comment says."""
    for each in _TARGET.finditer(expressions):
        name = each[1]
        if each.start() >= 4 and struct.unpack_from("=HH", expressions, each.start() - 4) == (len(name) + 5, 2):
            yield name.decode()


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode()
