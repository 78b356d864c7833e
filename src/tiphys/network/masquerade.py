"""Packets of pods that leave the cluster carry the node's address: nobody outside knows the way to a pod.

Between pods nothing is rewritten; nor is multicast. One nftables table, replaced whole.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from tiphys.base.nft import AsyncNft

TABLE: Final = "tiphys-masquerade"


def rules(pod_cidrs: Sequence[str], cluster_cidr: str) -> str:
    """The script that replaces the table. `cluster_cidr`: everything inside it is reached unmasked; may be empty."""
    script = ""
    for family, version, multicast in (("ip", 4, "224.0.0.0/4"), ("ip6", 6, "ff00::/8")):
        sources = [cidr for cidr in pod_cidrs if ipaddress.ip_network(cidr).version == version]
        if not sources:
            continue
        inside = [cidr for cidr in cluster_cidr.split(",") if cidr and ipaddress.ip_network(cidr).version == version]
        script += f"add table {family} {TABLE}\ndelete table {family} {TABLE}\n"
        script += f"table {family} {TABLE} {{\n  chain postrouting {{\n"
        script += "    type nat hook postrouting priority srcnat + 5; policy accept;\n"
        for source in sources:
            excluded = ", ".join([*(inside or [source]), multicast])
            script += f"    {family} saddr {source} {family} daddr != {{ {excluded} }} masquerade fully-random\n"
        script += "  }\n}\n"
    return script


async def apply(nft: AsyncNft, pod_cidrs: Sequence[str], cluster_cidr: str) -> None:
    """Make the rules. Raises NftError."""
    await nft.run(rules(pod_cidrs, cluster_cidr))


async def clean_up(nft: AsyncNft) -> None:
    """Remove the rules of both families."""
    await nft.run("".join(f"add table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family in ("ip", "ip6")))
