"""Which processes a cluster consists of, and the command line of each: what a person would type to run it alone."""

from __future__ import annotations

import ipaddress
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tiphys.cmd.cluster import place
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.spec import ClusterSpec, NodeSpec

KUBELET_PORT: Final = 10250
MAX_PODS: Final = 110  # of one node, the kubelet's default
USERS_OF_A_POD: Final = 65536  # with users of its own
IMAGES_JOB: Final = "images"
SIMULATOR: Final = "simulator"
SIMULATED_ZONES: Final = 5
# The order of their ports for metrics, from --component-ports on.
PORTS: Final = ("controller-manager", "scheduler", SIMULATOR)
# On every node `up` makes: the cluster as it is called on this machine.
NODE_LABEL: Final = "tiphys.dev/cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One process. `node` names the node whose namespaces it lives in, "" for the machine's own."""

    name: str
    command: str  # module of tiphys.cmd
    arguments: tuple[str, ...]
    node: str = ""
    after: tuple[str, ...] = ()  # components that must have been ready once
    job: bool = False  # ends by itself; a failure is repeated, success is not

    def __str__(self) -> str:
        return shlex.join(["tiphys", self.command.replace("_", "-"), *self.arguments])


def process_flags(**values: object) -> tuple[str, ...]:
    """A command line: `--some-name=value` each; what is "" or None is left out."""
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value not in ("", None))


def control_plane(spec: ClusterSpec, layout: Layout) -> list[Component]:
    """The API server, and unless it is to stand alone, the controller manager and the scheduler."""
    found = [_apiserver(spec, layout)]
    if spec.mode == "api-only":
        return found
    pki = layout.pki
    found.append(
        Component(
            name="controller-manager",
            command="controller_manager",
            after=("apiserver",),
            arguments=process_flags(
                kubeconfig=layout.kubeconfig("controller-manager"),
                cluster_cidr=spec.pod_cidr,
                service_cluster_ip_range=spec.service_cidr,
                allocate_node_cidrs="true",
                root_ca_file=pki / "ca.crt",
                service_account_private_key_file=pki / "sa.key",
                cluster_signing_cert_file=pki / "ca.crt",
                cluster_signing_key_file=pki / "ca.key",
                # The last three are for machines that join; upstream leaves two of them off unless named.
                controllers="*,bootstrap-signer-controller,token-cleaner-controller,kubelet-serving-approver",
                local_path_directory=layout.node_state("{node}") / "volumes",
                node_monitor_grace_period=f"{spec.node_monitor_grace_period:g}s",
                secure_port=_port(spec, "controller-manager"),
            ),
        )
    )
    found.append(
        Component(
            name="scheduler",
            command="scheduler",
            after=("apiserver",),
            arguments=process_flags(kubeconfig=layout.kubeconfig("scheduler"), secure_port=_port(spec, "scheduler")),
        )
    )
    return found


def _port(spec: ClusterSpec, name: str) -> int:
    """Where a component serves its metrics, 0 for nowhere."""
    return spec.component_ports + PORTS.index(name) if spec.component_ports else 0


def _apiserver(spec: ClusterSpec, layout: Layout) -> Component:
    pki = layout.pki
    addresses = ["127.0.0.1"]
    advertise = ""
    if spec.subnet:
        # The Service `kubernetes` leads to the primary family's; nodes come by IPv4.
        advertise = spec.bridge_address(spec.families[0])
        addresses += dict.fromkeys((spec.bridge_address(), *map(spec.bridge_address, spec.families)))
    return Component(
        name="apiserver",
        command="apiserver",
        arguments=process_flags(
            bind_address=",".join(addresses),
            advertise_address=advertise,
            secure_port=spec.api_port,
            datastore=f"sqlite:{layout.store}" if spec.datastore == "sqlite" else spec.datastore,
            etcd_cafile=spec.etcd_cafile,
            etcd_certfile=spec.etcd_certfile,
            etcd_keyfile=spec.etcd_keyfile,
            etcd_prefix=spec.etcd_prefix,
            quota_backend_bytes=spec.quota_backend_bytes or "",
            encryption_provider_config=spec.encryption_provider_config,
            encryption_provider_config_automatic_reload="true" if spec.encryption_provider_config else "",
            service_cluster_ip_range=spec.service_cidr,
            client_ca_file=pki / "ca.crt",
            tls_cert_file=pki / "apiserver.crt",
            tls_private_key_file=pki / "apiserver.key",
            kubelet_client_certificate=pki / "apiserver-kubelet-client.crt",
            kubelet_client_key=pki / "apiserver-kubelet-client.key",
            kubelet_certificate_authority=pki / "ca.crt",
            node_network_namespaces=place.network_namespace_path(layout, "{node}"),
            service_account_key_file=pki / "sa.pub",
            service_account_signing_key_file=pki / "sa.key",
            service_account_issuer=f"https://kubernetes.default.svc.{spec.cluster_domain}",
            requestheader_client_ca_file=pki / "front-proxy-ca.crt",
            proxy_client_cert_file=pki / "front-proxy-client.crt",
            proxy_client_key_file=pki / "front-proxy-client.key",
            enable_bootstrap_token_auth="true",
            authorization_mode="Node,RBAC",
            enable_admission_plugins="NodeRestriction",
            allow_privileged="true",
        ),
    )


def runtime_endpoint(spec: ClusterSpec, layout: Layout, node: NodeSpec) -> str:
    """Where the node's container runtime answers: a URL, as `unix:///…/runtime.sock`."""
    return spec.container_runtime_endpoint or f"unix://{layout.node_run(node.name) / 'runtime.sock'}"


def node_components(
    spec: ClusterSpec,
    layout: Layout,
    node: NodeSpec,
    *,
    address: str = "",
    dns_address: str = "",
    joined: bool = False,
    kubelet_directory: Path = place.KUBELET_DIRECTORY,
) -> list[Component]:
    """The processes of one node: runtime, kubelet, kube-proxy, the network agent and, if wanted, ingress.

    `joined`: the node is this whole machine and the API server is elsewhere; it has `address`, and the cluster's
    DNS `dns_address`, which otherwise follow from the spec.
    """
    own_place = "" if joined else node.name
    after = () if joined else ("apiserver",)
    state, run = layout.node_state(node.name), layout.node_run(node.name)
    endpoint = runtime_endpoint(spec, layout, node)
    cgroup = f"/{layout.cgroup}/{node.name}"
    found = []
    if not spec.container_runtime_endpoint:
        found.append(
            Component(
                name=f"{node.name}/runtime",
                command="runtime",
                node=own_place,
                arguments=process_flags(
                    listen=endpoint,
                    root=state / "runtime",
                    state=run / "runtime",
                    images=layout.images,
                    node_name=node.name,
                    subnet_file=run / "subnet.json",
                    network_state=state / "network",
                    registry_netns="" if joined else layout.run / "ns" / "host.net",
                    cgroup_parent=cgroup,
                ),
            )
        )
    found.append(
        Component(
            name=f"{node.name}/kubelet",
            command="kubelet",
            node=own_place,
            after=after,
            arguments=process_flags(
                kubeconfig=layout.kubeconfig(f"kubelet-{node.name}"),
                node_ip=address or ",".join(spec.node_addresses(node)),
                hostname_override=node.name,
                container_runtime_endpoint=endpoint,
                root_dir=kubelet_directory,
                cgroup_root=cgroup,
                cluster_dns=dns_address or spec.dns_address,
                cluster_domain=spec.cluster_domain,
                pod_manifest_path=state / "manifests",
                pod_logs_dir=state / "pod-logs",
                client_ca_file=layout.pki / "ca.crt",
                tls_cert_file=layout.pki / f"kubelet-{node.name}-server.crt",
                tls_private_key_file=layout.pki / f"kubelet-{node.name}-server.key",
                port=KUBELET_PORT,
                subordinate_ids="" if joined else _subordinate_ids(node),
                node_labels="" if joined else f"{NODE_LABEL}={spec.name}",
            ),
        )
    )
    found.append(
        Component(
            name=f"{node.name}/proxy",
            command="proxy",
            node=own_place,
            after=after,
            arguments=process_flags(
                kubeconfig=layout.kubeconfig("proxy"),
                hostname_override=node.name,
                proxy_mode=spec.proxy_mode,
                cluster_cidr=spec.pod_cidr,
                # Every node has the balancer's addresses then, but one is to answer for each.
                ipvs_strict_arp=True if spec.proxy_mode == "ipvs" else None,
            ),
        )
    )
    found.append(
        Component(
            name=f"{node.name}/network",
            command="network",
            node=own_place,
            after=after,
            arguments=process_flags(
                kubeconfig=layout.kubeconfig("network"),
                node_name=node.name,
                backend=spec.network,
                cluster_cidr=spec.pod_cidr,
                subnet_file=run / "subnet.json",
                network_state=state / "network",
                load_balancer_pool=_balancer_pool(spec),
            ),
        )
    )
    if spec.ingress and not joined:
        found.append(_ingress(layout, node))
    return found


def _subordinate_ids(node: NodeSpec) -> str:
    """Users of the machine for the node's pods: no two of the nodes on one machine may give the same ones."""
    count = MAX_PODS * USERS_OF_A_POD
    return f"{USERS_OF_A_POD + (node.index - 1) * count}:{count}"


def _ingress(layout: Layout, node: NodeSpec) -> Component:
    return Component(
        name=f"{node.name}/ingress",
        command="ingress",
        node=node.name,
        after=("apiserver",),
        arguments=process_flags(
            kubeconfig=layout.kubeconfig("ingress"),
            node_name=node.name,
            # Short: the path of a Unix socket is limited.
            directory=layout.node_run(node.name) / "ingress",
            cgroup=f"/{layout.cgroup}/{node.name}/ingress",
        ),
    )


def _balancer_pool(spec: ClusterSpec) -> str:
    """The last quarter of the nodes' own network: whoever reaches the nodes reaches these addresses."""
    if not spec.subnet:
        return ""  # a machine that joined: its network is not ours to give addresses of
    found = []
    for version in spec.families:
        network = ipaddress.ip_network(spec.subnet_of(version))
        # Of IPv6 the same last numbers as of IPv4: addresses are for people.
        first = network[192] if version == 6 else network[network.num_addresses * 3 // 4]
        found.append(f"{first}-{network[254] if version == 6 else network[-2]}")
    return ",".join(found)


def images_job(spec: ClusterSpec, layout: Layout) -> Component:
    """The images that are assembled on this machine; begun before everything else, as it needs nothing of it."""
    return Component(name=IMAGES_JOB, command="images", job=True, arguments=process_flags(images=layout.images))


def setup_job(spec: ClusterSpec, layout: Layout) -> Component:
    """What is done once the API answers: nodes awaited and forgotten, storage, rights for machines that join."""
    return Component(
        name="setup",
        command="setup",
        job=True,
        after=("apiserver",),
        arguments=process_flags(name=spec.name, state_dir=layout.state, part="nodes"),
    )


def dns_job(spec: ClusterSpec, layout: Layout) -> Component:
    """Cluster DNS, once its image is there."""
    return Component(
        name="dns",
        command="setup",
        job=True,
        after=("apiserver", IMAGES_JOB),
        arguments=process_flags(name=spec.name, state_dir=layout.state, part="dns"),
    )


def simulator(spec: ClusterSpec, layout: Layout) -> Component:
    """The simulated nodes. Where there are real ones too, only pods that ask for it come to the simulated."""
    return Component(
        name=SIMULATOR,
        command="simulate",
        after=("apiserver",),
        arguments=process_flags(
            kubeconfig=layout.kubeconfig("simulator"),
            nodes=spec.simulated_nodes,
            zones=SIMULATED_ZONES,
            tainted="true" if spec.nodes else "false",
            secure_port=_port(spec, SIMULATOR),
        ),
    )


def all_components(spec: ClusterSpec, layout: Layout) -> list[Component]:
    """Every process of the cluster, in the order they are started."""
    found = control_plane(spec, layout)
    if spec.mode == "cluster":
        found.insert(0, images_job(spec, layout))
        for node in spec.nodes:
            found += node_components(spec, layout, node)
        found += [setup_job(spec, layout), dns_job(spec, layout)]
    if spec.simulated_nodes:
        found.append(simulator(spec, layout))
    return found
