"""`tiphys controller-manager`: every controller, with kube-controller-manager's flag names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from tiphys.apiserver.admission.policies.typecheck import PolicyTypeChecker
from tiphys.base.clock import SystemClock
from tiphys.base.notify import notify_ready
from tiphys.client import LeadershipLost
from tiphys.cmd.component import add_common_flags, begin_logging, connect, run
from tiphys.cmd.election import add_election_flags, election_of
from tiphys.cmd.errors import CommandError, UsageError
from tiphys.cmd.flags import FlagParser, duration
from tiphys.cmd.health import add_health_flags, health_served
from tiphys.controllers.common.context import Options
from tiphys.controllers.manager import ControllerManager


def parser() -> FlagParser:
    """kube-controller-manager's flags, as far as they have a meaning here."""
    flags = FlagParser("controller-manager", "The controllers of a cluster.")
    add_common_flags(flags)
    flags.listing("controllers", ["*"], "which run: * for all on by default, foo to add, -foo to leave out")
    flags.add_argument("--cluster-cidr", default="10.244.0.0/16", help="range of pod addresses")
    flags.add_argument("--service-cluster-ip-range", default="10.96.0.0/16", help="range of service addresses")
    flags.boolean("allocate-node-cidrs", True, "give every node a part of the range of pod addresses")
    flags.add_argument("--root-ca-file", type=Path, help="authority that pods are told to trust")
    flags.add_argument("--service-account-private-key-file", type=Path, help="signs legacy service-account tokens")
    flags.add_argument("--cluster-signing-cert-file", type=Path, help="authority that signs certificate requests")
    flags.add_argument("--cluster-signing-key-file", type=Path, help="its key")
    grace = timedelta(seconds=40)
    flags.add_argument("--node-monitor-grace-period", type=duration, default=grace, help="silence before not ready")
    directory = "/opt/local-path-provisioner"
    flags.add_argument("--local-path-directory", default=directory, help="where nodes keep volumes of local-path")
    add_election_flags(flags, "kube-controller-manager")
    flags.boolean("use-service-account-credentials", True, "give every controller an identity of its own")
    add_health_flags(flags)
    return flags


def main(arguments: Sequence[str]) -> int:
    """Run the command until it is ended."""
    found = parser().parse(arguments)
    begin_logging(found.verbosity)
    options = options_of(found)
    election = election_of(found)
    clock = SystemClock()

    async def work() -> None:
        async with connect(found.kubeconfig, "kube-controller-manager") as client:
            try:
                manager = ControllerManager(
                    options,
                    client,
                    clock,
                    controllers=found.controllers,
                    election=election,
                    use_accounts=found.use_service_account_credentials,
                )
            except ValueError as error:
                raise UsageError(str(error)) from error
            notify_ready()
            try:
                async with health_served(client, found.bind_address, found.secure_port):
                    await manager.run()
            except LeadershipLost as error:
                raise CommandError(f"leader election lost: {error}") from error

    return run(work)


def options_of(found: Any) -> Options:
    """The flags as the controllers' options; raises UsageError for a file that cannot be read."""
    return Options(
        node_monitor_grace_period=found.node_monitor_grace_period,
        cluster_cidrs=tuple(found.cluster_cidr.split(",")) if found.allocate_node_cidrs else (),
        service_cluster_ip_range=found.service_cluster_ip_range,
        root_ca=_read(found.root_ca_file),
        service_account_key=_read(found.service_account_private_key_file),
        cluster_signing_cert=_read(found.cluster_signing_cert_file),
        cluster_signing_key=_read(found.cluster_signing_key_file),
        local_path_directory=found.local_path_directory,
        policy_type_checker=PolicyTypeChecker(),
    )


def _read(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
