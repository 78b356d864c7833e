"""What is read of iptables by netlink is what iptables-save says."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.e2e.netlab import lab, path, sh
from tiphys.base.netlink import Netlink
from tiphys.base.netns import call_in
from tiphys.base.nft import NETLINK_NETFILTER
from tiphys.proxy.iptables.found import Found, from_kernel, from_text

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("iptables-nft-save") is None, reason="no iptables-nft-save on this machine"),
]
BASE = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
RULES = """*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-ABCDEFGH - [0:0]
:KUBE-SEP-EMPTY - [0:0]
:OTHERS - [0:0]
-A PREROUTING -m comment --comment "KUBE-POSTROUTING" -j KUBE-SERVICES
-A PREROUTING -j OTHERS
-A OUTPUT -m addrtype --dst-type LOCAL -j KUBE-SERVICES
-A OTHERS -j RETURN
-A KUBE-SERVICES -p tcp -m tcp --dport 80 -j KUBE-SVC-ABCDEFGH
-A KUBE-SVC-ABCDEFGH -m statistic --mode random --probability 0.5 -j KUBE-SEP-EMPTY
-A KUBE-SVC-ABCDEFGH -j KUBE-SEP-EMPTY
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m conntrack --ctstate NEW -j KUBE-FORWARD
COMMIT
*mangle
:KUBE-SERVICES - [0:0]
-A PREROUTING -j KUBE-SERVICES
COMMIT
"""


@pytest.mark.parametrize(("family", "program"), [("ip", "iptables-nft"), ("ip6", "ip6tables-nft")])
def test_the_kernel_says_what_iptables_save_says(family: str, program: str) -> None:
    with lab() as made:
        node = made.netns("node")

        def read() -> Found:
            with Netlink(protocol=NETLINK_NETFILTER) as channel:
                return from_kernel(channel, family)

        assert call_in(path(node), read) == Found()  # no table at all
        sh(f"{program}-restore <<'EOF'\n{RULES}EOF", node)
        found = call_in(path(node), read)
        said = from_text(sh(f"{program}-save", node))
        for chains in said.counts.values():  # iptables-save says them also where there are none
            for name in [name for name, rules in chains.items() if name in BASE and not rules]:
                del chains[name]
        assert found == said
        assert found.counts["nat"]["KUBE-SVC-ABCDEFGH"] == 2
        assert found.counts["nat"]["KUBE-SEP-EMPTY"] == 0
        assert found.jumps == {
            ("nat", "PREROUTING", "KUBE-SERVICES"),
            ("nat", "OUTPUT", "KUBE-SERVICES"),
            ("filter", "FORWARD", "KUBE-FORWARD"),
        }
