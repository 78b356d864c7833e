"""Every mode's writer of rules, and how the rules of all of them are taken away."""

from __future__ import annotations

from tiphys.base.nft import AsyncNft, NftError
from tiphys.proxy.config import IPTABLES, IPVS, NFTABLES, ProxyConfig
from tiphys.proxy.iptables.applier import IptablesApplier
from tiphys.proxy.iptables.chains import Site
from tiphys.proxy.ipvs.applier import IpvsApplier
from tiphys.proxy.ipvs.layout import Layout as IpvsLayout
from tiphys.proxy.nftables.applier import Applier
from tiphys.proxy.nftables.layout import Layout
from tiphys.proxy.rules import RuleWriter


def writers(nft: AsyncNft, family: str, cidr: str, config: ProxyConfig) -> dict[str, RuleWriter]:
    """One for each mode, of one address family ("ip" or "ip6"). `cidr`: where its pods are; may be empty."""
    everyone = config.masquerade_all
    return {
        NFTABLES: Applier(nft, Layout(family=family, cluster_cidr=cidr, masquerade_all=everyone)),
        IPTABLES: IptablesApplier(nft, Site(family=family, cluster_cidr=cidr, masquerade_all=everyone)),
        IPVS: IpvsApplier(nft, IpvsLayout(family=family, cluster_cidr=cidr, masquerade_all=everyone), config.ipvs),
    }


async def remove_rules() -> list[str]:
    """Remove the rules of every mode, in which a proxy of this network namespace may have run, as none does now.

    What is refused keeps nothing else from going; returns it in words.
    """
    failures: list[str] = []
    nft = AsyncNft()
    try:
        for family in ("ip", "ip6"):
            for mode, writer in writers(nft, family, "", ProxyConfig()).items():
                try:
                    await writer.clean_up()
                except (NftError, OSError) as error:
                    failures.append(f"rules of mode {mode} ({family}): {error}")
    finally:
        nft.close()
    return failures
