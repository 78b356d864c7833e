"""What a cluster is: the choices made at its first `up`, kept in cluster.json and used at every later one."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from tiphys.apiserver.pki import write_private
from tiphys.cmd.errors import CommandError, UsageError

NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")
NETWORKS: Final = ("vxlan", "host-gw", "bgp", "ipip")
# Each cluster has a /24 of it.
NODES_NETWORK: Final = ipaddress.ip_network("172.30.0.0/16")
# The upper quarter of the /24 belongs to load balancers.
MAX_NODES: Final = 180
PROXY_MODES: Final = ("nftables", "iptables", "ipvs")


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node on this machine; `index` decides its address on the cluster's bridge."""

    name: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """The choices of one cluster. `mode` is "cluster", "control-plane-only" or "api-only"."""

    name: str
    mode: str = "cluster"
    nodes: tuple[NodeSpec, ...] = ()
    api_port: int = 6443
    subnet: str = ""  # of the bridge that joins the nodes, for example 172.30.0.0/24; "" without nodes
    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    cluster_domain: str = "cluster.local"
    datastore: str = "sqlite"  # or the URLs of etcd's members
    etcd_cafile: str = ""
    etcd_certfile: str = ""
    etcd_keyfile: str = ""
    etcd_prefix: str = "/registry"
    quota_backend_bytes: int = 0  # of the embedded store; 0 is its default
    encryption_provider_config: str = ""
    network: str = "vxlan"
    proxy_mode: str = "nftables"
    ingress: bool = False  # an ingress controller on every node
    container_runtime_endpoint: str = ""  # "" is our own runtime
    kubeconfig: str = ""
    simulated_nodes: int = 0
    component_ports: int = 0  # the first of those for metrics; 0 for none
    node_monitor_grace_period: float = 40.0  # seconds
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def dns_address(self) -> str:
        """The tenth address of the service range."""
        return self.service_address(10)

    def service_address(self, number: int) -> str:
        """The `number`th address of the (first) service range."""
        return str(ipaddress.ip_network(self.service_cidr.split(",")[0])[number])

    @property
    def families(self) -> tuple[int, ...]:
        """The IP versions of pods and Services, the primary one first."""
        return tuple(ipaddress.ip_network(each).version for each in self.pod_cidr.split(","))

    def subnet_of(self, version: int) -> str:
        """The bridge's network in one family: a unique local /64 that is made of the IPv4 one (RFC 4193)."""
        if version == 4:
            return self.subnet
        parts = ipaddress.IPv4Network(self.subnet).network_address.packed
        return str(ipaddress.IPv6Network(f"fd74:7068:{parts[0]:x}:{parts[1]:02x}{parts[2]:02x}::/64"))

    def bridge_address(self, version: int = 4) -> str:
        """The machine's own address on the bridge."""
        return str(ipaddress.ip_network(self.subnet_of(version))[1])

    def node_address(self, node: NodeSpec, version: int = 4) -> str:
        """A node's address on the bridge. Every node has one of IPv4, whatever its pods have."""
        return str(ipaddress.ip_network(self.subnet_of(version))[1 + node.index])

    def node_addresses(self, node: NodeSpec) -> tuple[str, ...]:
        """The addresses a node is known by: one of each of the cluster's families."""
        return tuple(self.node_address(node, version) for version in self.families)

    def with_node(self, name: str) -> tuple[ClusterSpec, NodeSpec]:
        """The spec with one more node; raises UsageError when the name is taken or not a node name."""
        if not NAME.fullmatch(name):
            raise UsageError(f'"{name}" is not a node name: lower-case letters, digits and "-", at most 32')
        if any(node.name == name for node in self.nodes):
            raise UsageError(f'node "{name}" exists already')
        if len(self.nodes) >= MAX_NODES:
            raise UsageError(f"a cluster on one machine has at most {MAX_NODES} nodes")
        used = {node.index for node in self.nodes}
        node = NodeSpec(name, next(index for index in range(1, MAX_NODES + 1) if index not in used))
        return replace(self, nodes=(*self.nodes, node)), node

    def without_node(self, name: str) -> ClusterSpec:
        """The spec without a node; raises UsageError when there is none of that name."""
        self.node(name)
        return replace(self, nodes=tuple(node for node in self.nodes if node.name != name))

    def node(self, name: str) -> NodeSpec:
        """A node by its name; raises UsageError, naming those there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes) or "none"
        raise UsageError(f'there is no node "{name}" in cluster "{self.name}" (nodes: {known})')


def check_ranges(pod_cidr: str, service_cidr: str) -> None:
    """Raise UsageError unless both are one range of IPv4, of IPv6, or one of each in the same order, all apart."""
    found: list[list[ipaddress.IPv4Network | ipaddress.IPv6Network]] = []
    for flag, text, longest in (
        ("--pod-cidr", pod_cidr, {4: 24, 6: 64}),
        ("--service-cidr", service_cidr, {4: 30, 6: 126}),
    ):
        try:
            ranges = [ipaddress.ip_network(each) for each in text.split(",")]
        except ValueError as error:
            raise UsageError(f"{flag}: {error}") from error
        if len({each.version for each in ranges}) != len(ranges):
            raise UsageError(f"{flag}: one range of each family, as 10.244.0.0/16,fd00:10:244::/56")
        for each in ranges:
            if each.prefixlen > longest[each.version]:
                raise UsageError(f"{flag}: {each} is too small; at most /{longest[each.version]}")
            if flag == "--pod-cidr" and longest[each.version] - each.prefixlen > 16:
                raise UsageError(f"{flag}: {each} is too large; at least /{longest[each.version] - 16}")
            if flag == "--service-cidr" and each.max_prefixlen - each.prefixlen > 20:
                raise UsageError(f"{flag}: {each} is too large; at least /{each.max_prefixlen - 20}")
        found.append(ranges)
    for each in (*found[0], *found[1]):
        if each.overlaps(NODES_NETWORK):
            raise UsageError(f"{each} overlaps {NODES_NETWORK}, of which the nodes have their addresses")
    pods, services = found
    if [each.version for each in pods] != [each.version for each in services]:
        raise UsageError("--pod-cidr and --service-cidr must have the same families in the same order")
    for mine, theirs in zip(pods, services, strict=True):
        if mine.overlaps(theirs):
            raise UsageError(f"--pod-cidr {mine} and --service-cidr {theirs} overlap")


def load(path: Path) -> ClusterSpec | None:
    """The spec in a file, None if there is no file; raises CommandError when it cannot be read or is not a spec."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    try:
        data = json.loads(text)
        known = {item.name for item in fields(ClusterSpec)}
        unknown = set(data) - known
        if unknown:
            raise ValueError(f"unknown field {sorted(unknown)[0]}")
        data["nodes"] = tuple(NodeSpec(**node) for node in data.get("nodes", ()))
        return ClusterSpec(**data)
    except (ValueError, TypeError, AttributeError) as error:
        raise CommandError(
            f"{path} is not a cluster's description ({error}); restore it, or remove the state with "
            f"`tiphys down --name {path.parent.name} --purge` and start anew"
        ) from error


def save(spec: ClusterSpec, path: Path) -> None:
    """Write the spec whole or not at all."""
    write_private(path, json.dumps(asdict(spec), indent=2).encode() + b"\n", 0o644)
