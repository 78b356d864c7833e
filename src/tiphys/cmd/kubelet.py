"""`tiphys kubelet`: the node agent, with kubelet's flag names. Runs in its node's namespaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tiphys.base.notify import notify_ready
from tiphys.base.tasks import Supervised
from tiphys.cmd.component import add_common_flags, begin_logging, connect, run
from tiphys.cmd.errors import UsageError
from tiphys.cmd.flags import FlagParser, key_values
from tiphys.kubelet.config import ConfigError, KubeletConfiguration, KubeletFlags
from tiphys.kubelet.kubelet import Kubelet


def parser() -> FlagParser:
    """kubelet's flags, as far as they have a meaning here; those given here beat the configuration file."""
    flags = FlagParser("kubelet", "The node agent.")
    add_common_flags(flags)
    flags.add_argument("--config", type=Path, help="a KubeletConfiguration document")
    flags.add_argument("--hostname-override", required=True, help="name of the node")
    flags.add_argument("--node-ip", default="", help="addresses of the node")
    flags.add_argument("--node-labels", type=key_values, default={}, help="labels to register the node with")
    flags.add_argument("--root-dir", type=Path, default=Path("/var/lib/kubelet"), help="volumes and files of pods")
    flags.add_argument("--container-runtime-endpoint", default="unix:///run/tiphys/tiphys.sock", help="the CRI socket")
    flags.add_argument("--provider-id", default="", help="the machine's name at its provider")
    flags.add_argument("--subordinate-ids", type=_id_range, help="FIRST:COUNT users for pods with hostUsers: false")
    for name, help_text in (
        ("cgroup-root", "cgroup below which pods have theirs"),
        ("cluster-dns", "address of cluster DNS"),
        ("cluster-domain", "domain of the cluster"),
        ("pod-manifest-path", "directory of static pods"),
        ("pod-logs-dir", "directory of containers' logs"),
        ("client-ca-file", "authority of client certificates"),
        ("tls-cert-file", "serving certificate"),
        ("tls-private-key-file", "its key"),
        ("resolv-conf", "resolver configuration of the node"),
    ):
        flags.add_argument(f"--{name}", help=help_text)
    flags.add_argument("--port", type=int, help="port of the kubelet's server")
    flags.add_argument("--max-pods", type=int, help="pods the node takes")
    return flags


def main(arguments: Sequence[str]) -> int:
    """Run the command until it is ended."""
    found = parser().parse(arguments)
    begin_logging(found.verbosity)
    config = configuration(found)
    own = KubeletFlags(
        node_name=found.hostname_override,
        root_dir=found.root_dir,
        node_ips=tuple(filter(None, found.node_ip.split(","))),
        node_labels=found.node_labels,
        hostname=found.hostname_override,
        container_runtime_endpoint=found.container_runtime_endpoint,
        provider_id=found.provider_id,
        subordinate_ids=found.subordinate_ids,
    )

    async def work() -> None:
        async with connect(found.kubeconfig, "kubelet") as client, Supervised() as tasks:
            kubelet = Kubelet(config, own, client)
            tasks.spawn(kubelet.run, name="kubelet")
            await kubelet.ready.wait()
            notify_ready(node=own.node_name)
            await tasks.wait()

    return run(work)


def _id_range(text: str) -> tuple[int, int]:
    first, _, count = text.partition(":")
    return int(first), int(count)


def configuration(found: Any) -> KubeletConfiguration:
    """The document, with the flags laid over it; raises UsageError with what is wrong."""
    config = KubeletConfiguration()
    if found.config is not None:
        try:
            config = KubeletConfiguration.from_dict(yaml.safe_load(found.config.read_text()) or {})
        except (OSError, yaml.YAMLError, ConfigError) as error:
            raise UsageError(f"cannot use {found.config}: {' '.join(str(error).split())}") from error
    given = {
        "cgroup_root": found.cgroup_root,
        "cluster_dns": tuple(found.cluster_dns.split(",")) if found.cluster_dns else None,
        "cluster_domain": found.cluster_domain,
        "static_pod_path": found.pod_manifest_path,
        "pod_logs_dir": found.pod_logs_dir,
        "client_ca_file": found.client_ca_file,
        "tls_cert_file": found.tls_cert_file,
        "tls_private_key_file": found.tls_private_key_file,
        "resolv_conf": found.resolv_conf,
        "port": found.port,
        "max_pods": found.max_pods,
    }
    return replace(config, **{name: value for name, value in given.items() if value is not None})
