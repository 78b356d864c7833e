"""Our plugin: a bridge on the node, a veth pair a pod, addresses from the node's pod CIDR.

    pod  eth0 10.244.1.5/24 ──veth── tph3f2a… ┐
    pod  eth0 10.244.1.6/24 ──veth── tph91bc… ┴─ tph0 10.244.1.1 (the pods' default route)

The bridge is needed by its neighbours' table too: hardware addresses are made of the IP address
(0a:58 and its last four bytes), so an address given to another pod never leaves a stale entry.
Everything is found again by name: a veth's name is made of the sandbox's id, so that after a
crash `gc` removes what no living sandbox owns. Blocking; `setup` runs it in a thread.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import os
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tiphys.base import netlink
from tiphys.base.netlink import Link, Netlink, NetlinkError
from tiphys.network.cni.ipam import AddressPool, Allocation
from tiphys.network.cni.model import NetworkError, Pod, PodInterface
from tiphys.network.subnet import Subnet
from tiphys.network.sysctl import filter_bridged, set_sysctl

BRIDGE: Final = "tph0"
POD_INTERFACE: Final = "eth0"
_PREFIX: Final = "tph"


def host_interface(sandbox_id: str) -> str:
    """The node's end of a sandbox's veth pair."""
    return _PREFIX + hashlib.sha256(sandbox_id.encode()).hexdigest()[:11]


def mac_of(address: str) -> str:
    """The hardware address of a pod with this IP address: the same on every node and in every run."""
    return "0a:58:" + ipaddress.ip_address(address).packed[-4:].hex(":")


class BridgePlugin:
    """Connects pods of one node. All calls from one thread, in the node's network namespace."""

    def __init__(self, subnet: Subnet, state: Path) -> None:
        if not subnet.cidrs:
            raise NetworkError("the node has no pod CIDR")
        self.subnet = subnet
        self.pools = [AddressPool(state / "addresses", cidr) for cidr in subnet.cidrs]
        self._netlink = Netlink()
        self._bridge = self._ensure_bridge()

    def close(self) -> None:
        self._netlink.close()

    def add(self, pod: Pod) -> PodInterface:
        """Connect a pod; connecting it again gives the same. Raises NetworkError and then leaves nothing behind."""
        name = host_interface(pod.sandbox_id)
        owner = f"{pod.namespace}/{pod.name}"
        try:
            addresses = [pool.allocate(pod.sandbox_id, owner, pod.port_mappings) for pool in self.pools]
            try:
                namespace = os.open(pod.netns_path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise NetworkError(f"failed to open netns {pod.netns_path!r}: {error.strerror}") from None
            try:
                self._connect(namespace, name, addresses)
            finally:
                os.close(namespace)
        except BaseException as error:
            self.delete(pod.sandbox_id)
            if isinstance(error, OSError):
                raise NetworkError(f"failed to connect the pod: {error.strerror}") from error
            raise
        return PodInterface(
            ips=tuple(addresses), mac=mac_of(addresses[0]), gateway=self.pools[0].gateway, host_interface=name
        )

    def delete(self, sandbox_id: str) -> tuple[Allocation, ...]:
        """Disconnect a pod, whether or not its namespace still exists; returns the addresses it had."""
        self._netlink.send([netlink.del_link(name=host_interface(sandbox_id))])
        return self.release(sandbox_id)

    def release(self, sandbox_id: str) -> tuple[Allocation, ...]:
        """Free the addresses of a pod whose interface is gone; returns them."""
        return tuple(freed for pool in self.pools for freed in pool.release(sandbox_id))

    def check(self, pod: Pod) -> None:
        """Raise NetworkError unless the pod is connected as `add` left it."""
        name = host_interface(pod.sandbox_id)
        link = self._netlink.link(name)
        if link is None or not link.up or link.master != self._bridge:
            raise NetworkError(f"interface {name} of the pod is missing, down or not in bridge {BRIDGE}")
        wanted = {each.address for pool in self.pools for each in pool.of(pod.sandbox_id)}
        with Netlink(pod.netns_path) as inside:
            eth0 = inside.link(POD_INTERFACE)
            have = set() if eth0 is None else {each.cidr.split("/")[0] for each in inside.addresses(eth0.index)}
            if not wanted or not wanted <= have:
                raise NetworkError(f"{POD_INTERFACE} of the pod does not have {', '.join(sorted(wanted)) or 'an IP'}")
            for pool in self.pools:
                family = socket.AF_INET if pool.network.version == 4 else socket.AF_INET6
                if not any(route.destination == "" for route in inside.routes(family)):
                    raise NetworkError(f"the pod has no default route of IPv{pool.network.version}")

    def gc(self, valid: Collection[str]) -> list[str]:
        """Remove what belongs to no sandbox of `valid`; returns the names of what was removed."""
        keep = {host_interface(sandbox) for sandbox in valid}
        stale = [link for link in self._netlink.links() if self._is_ours(link) and link.name not in keep]
        self._netlink.send([netlink.del_link(link.index) for link in stale])
        removed = [link.name for link in stale]
        for pool in self.pools:
            for sandbox in {each.sandbox for each in pool.all()} - set(valid):
                removed.extend(freed.address for freed in pool.release(sandbox))
        return removed

    @staticmethod
    def _is_ours(link: Link) -> bool:
        return link.kind == "veth" and link.name.startswith(_PREFIX) and len(link.name) == 14

    def _connect(self, namespace: int, name: str, addresses: list[str]) -> None:
        try:
            self._add_veth(namespace, name, addresses[0])
        except NetlinkError as error:
            if error.errno == errno.EEXIST:  # an earlier add of this sandbox was cut short
                self._netlink.send([netlink.del_link(name=name)])
            else:  # the bridge was removed under us
                self._bridge = self._ensure_bridge()
            self._add_veth(namespace, name, addresses[0])
        host = self._netlink.link(name)
        if host is None:
            raise NetworkError(f"interface {name} vanished while the pod was being connected")
        self._netlink.send([netlink.set_hairpin(host.index)])
        with Netlink(namespace) as inside:
            eth0 = inside.link(POD_INTERFACE)
            if eth0 is None:
                raise NetworkError(f"interface {POD_INTERFACE} vanished while the pod was being connected")
            requests = [netlink.set_link(1, up=True), netlink.set_link(eth0.index, up=True)]
            for pool, address in zip(self.pools, addresses, strict=True):
                requests.append(netlink.new_address(eth0.index, f"{address}/{pool.network.prefixlen}"))
                requests.append(netlink.new_route("", gateway=pool.gateway, index=eth0.index))
            inside.send(requests)

    def _add_veth(self, namespace: int, name: str, address: str) -> None:
        request = netlink.new_veth(
            name,
            master=self._bridge,
            mtu=self.subnet.mtu,
            peer=POD_INTERFACE,
            peer_netns=namespace,
            peer_mac=mac_of(address),
        )
        self._netlink.send([request])

    def _ensure_bridge(self) -> int:
        """The bridge with the gateway addresses, made if need be; returns its index."""
        gateway = self.pools[0].gateway
        existing = self._netlink.link(BRIDGE)
        if existing is None:
            self._netlink.send([netlink.new_bridge(BRIDGE, mac=mac_of(gateway), mtu=self.subnet.mtu)])
            existing = self._netlink.link(BRIDGE)
            if existing is None:
                raise NetworkError(f"bridge {BRIDGE} could not be made")
        wanted = {f"{pool.gateway}/{pool.network.prefixlen}" for pool in self.pools}
        have = {each.cidr for each in self._netlink.addresses(existing.index) if not each.cidr.startswith("fe80:")}
        self._netlink.send(
            [
                netlink.set_link(existing.index, up=True, mtu=self.subnet.mtu),
                *(netlink.del_address(existing.index, cidr) for cidr in have - wanted),
                *(netlink.new_address(existing.index, cidr) for cidr in wanted - have),
            ]
        )
        set_sysctl("net/ipv4/ip_forward", "1")
        # A connection from the node's own loopback to a hostPort leaves through the bridge.
        set_sysctl(f"net/ipv4/conf/{BRIDGE}/route_localnet", "1")
        # Answers between two pods of one node must pass netfilter to be translated back.
        has_ipv6 = any(pool.network.version == 6 for pool in self.pools)
        filter_bridged(ipv6=has_ipv6)
        if has_ipv6:
            set_sysctl("net/ipv6/conf/all/forwarding", "1")
        return existing.index
