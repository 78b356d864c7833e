"""Connecting pods: our own plugin for the common case (`bridge`), the specification's runner for all others.

`setup.PodNetworks` chooses between them and is what a runtime is given.
"""

from tiphys.network.cni.model import NetworkError, PodInterface, PodNetwork, PortMapping, Readiness
from tiphys.network.cni.setup import PodNetworks

__all__ = ["NetworkError", "PodInterface", "PodNetwork", "PodNetworks", "PortMapping", "Readiness"]
