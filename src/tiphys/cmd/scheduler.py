"""`tiphys scheduler`: the scheduler, with kube-scheduler's flag names."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tiphys.base.clock import SystemClock
from tiphys.base.notify import notify_ready
from tiphys.base.tasks import Supervised
from tiphys.client import EventRecorder, Informers, LeadershipLost
from tiphys.cmd.component import add_common_flags, begin_logging, connect, run
from tiphys.cmd.election import add_election_flags, election_of
from tiphys.cmd.errors import CommandError, UsageError
from tiphys.cmd.flags import FlagParser, duration
from tiphys.cmd.health import Says, add_health_flags, health_served
from tiphys.scheduler.config import SchedulerConfig, document, load
from tiphys.scheduler.scheduler import Scheduler

# Of the file's leaderElection: the flag, and how a value is read. There is one kind of lock.
_ELECTION: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "leaderElect": ("leader_elect", bool),
    "leaseDuration": ("leader_elect_lease_duration", duration),
    "renewDeadline": ("leader_elect_renew_deadline", duration),
    "retryPeriod": ("leader_elect_retry_period", duration),
    "resourceName": ("leader_elect_resource_name", str),
    "resourceNamespace": ("leader_elect_resource_namespace", str),
}


def main(arguments: Sequence[str]) -> int:
    """Run the command until it is ended."""
    flags = FlagParser("scheduler", "The scheduler.")
    add_common_flags(flags)
    flags.add_argument("--config", type=Path, help="a KubeSchedulerConfiguration document")
    add_election_flags(flags, "kube-scheduler")
    add_health_flags(flags)
    config = _configuration(flags.parse(arguments).config)
    flags.set_defaults(**_defaults(config))
    options = flags.parse(arguments)  # flags go over the file
    begin_logging(options.verbosity)
    election = election_of(options)
    clock = SystemClock()
    at_work: Scheduler | None = None  # while it leads

    def configuration() -> dict[str, Any]:
        return {"componentconfig": {**document(config), "leaderElection": _election(options)}}

    def missing() -> str:
        return "sched-handler-sync" if at_work is not None and not at_work.ready.is_set() else ""

    async def work() -> None:
        async with (
            connect(options.kubeconfig, "kube-scheduler") as client,
            health_served(client, options.bind_address, options.secure_port, Says(configuration, missing)),
            Supervised() as tasks,
        ):

            async def schedule() -> None:
                nonlocal at_work
                informers = Informers(client, clock)
                try:
                    scheduler = Scheduler(client, informers, config, clock)
                except ValueError as error:
                    raise UsageError(str(error)) from error
                at_work = scheduler
                async with Supervised(clock) as parts:
                    parts.spawn(informers.run, name="informers")
                    parts.spawn(scheduler.run, name="scheduler")
                    await scheduler.ready.wait()
                    notify_ready()
                    await parts.wait()

            if election is None:
                await schedule()
                return
            recorder = EventRecorder(client, clock, "default-scheduler")
            tasks.spawn(recorder.run, name="leader election events", restart=True)
            try:
                await election.candidate(client, clock, recorder).run(schedule)
            except LeadershipLost as error:
                raise CommandError(f"leader election lost: {error}") from error

    return run(work)


def _defaults(config: SchedulerConfig) -> dict[str, Any]:
    """What the file says instead of flags."""
    given, found = config.leader_election, {}
    try:
        for name, (flag, read) in _ELECTION.items():
            if given.get(name) not in (None, ""):
                found[flag] = read(given[name])
    except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
        raise UsageError(f"leaderElection: {error}") from error
    return {**found, "kubeconfig": Path(config.kubeconfig)} if config.kubeconfig else found


def _election(options: Any) -> dict[str, Any]:
    """The election's flags, as the configuration names them."""
    lease, renew, retry = (
        f"{getattr(options, f'leader_elect_{name}').total_seconds():g}s"
        for name in ("lease_duration", "renew_deadline", "retry_period")
    )
    return {
        "leaderElect": options.leader_elect,
        "leaseDuration": lease,
        "renewDeadline": renew,
        "retryPeriod": retry,
        "resourceLock": "leases",
        "resourceName": options.leader_elect_resource_name,
        "resourceNamespace": options.leader_elect_resource_namespace,
    }


def _configuration(path: Path | None) -> SchedulerConfig:
    if path is None:
        return SchedulerConfig()
    try:
        return load(yaml.safe_load(path.read_text()) or {})
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise UsageError(f"cannot use {path}: {' '.join(str(error).split())}") from error
