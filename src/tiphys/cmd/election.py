"""The flags of leader election, alike for the controller manager and the scheduler."""

from __future__ import annotations

import os
import socket
import uuid
from datetime import timedelta
from typing import Any

from tiphys.base.notify import NOTIFY_FD
from tiphys.client.leaderelection import LEASE_DURATION, RENEW_DEADLINE, RETRY_PERIOD, Election
from tiphys.cmd.errors import UsageError
from tiphys.cmd.flags import FlagParser, duration
from tiphys.machinery.meta import ObjectName


def add_election_flags(flags: FlagParser, name: str) -> None:
    """`--leader-elect` and its details; `name` is the lease's where none is given."""
    flags.boolean("leader-elect", True, "work only while holding the lease")
    for flag, default, help_text in (
        ("lease-duration", LEASE_DURATION, "how long others wait for a leader that is silent"),
        ("renew-deadline", RENEW_DEADLINE, "how long a leader that cannot renew goes on"),
        ("retry-period", RETRY_PERIOD, "time between tries"),
    ):
        flags.add_argument(f"--leader-elect-{flag}", type=duration, default=default, help=help_text)
    flags.add_argument("--leader-elect-resource-name", default=name, help="name of the lease")
    flags.add_argument("--leader-elect-resource-namespace", default="kube-system", help="its namespace")


def election_of(options: Any) -> Election | None:
    """The election that the flags describe; None without one. Raises UsageError for times that cannot work."""
    if not options.leader_elect:
        return None
    lease, renew, retry = (
        options.leader_elect_lease_duration,
        options.leader_elect_renew_deadline,
        options.leader_elect_retry_period,
    )
    if lease <= renew:
        raise UsageError("--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline")
    if renew <= retry * 1.2 or retry <= timedelta():
        raise UsageError("--leader-elect-renew-deadline must be greater than --leader-elect-retry-period*1.2")
    return Election(
        lease=ObjectName(options.leader_elect_resource_namespace, options.leader_elect_resource_name),
        identity=identity(options.leader_elect_resource_name),
        lease_duration=lease,
        renew_deadline=renew,
        retry_period=retry,
    )


def identity(name: str) -> str:
    """Who stands for election: anybody who lives beside us must have another name.

    Under our supervisor the same after a restart, so that it leads again at once: its lock makes sure that no two live.
    """
    host = socket.gethostname()
    return f"{host}_{name}" if NOTIFY_FD in os.environ else f"{host}_{uuid.uuid4()}"
