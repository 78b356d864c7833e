"""kube-proxy: Services as packet rules. `proxier` tells the story; `nftables` is the one mode so far."""

from tiphys.proxy.config import ConfigError, ProxyConfig
from tiphys.proxy.proxier import Proxy

__all__ = ["ConfigError", "Proxy", "ProxyConfig"]
