"""Which store `tiphys etcd` is about: that of a cluster, one in a directory, or the members of an etcd cluster."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from tiphys.cmd.cluster import spec as specs
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.errors import CommandError, UsageError
from tiphys.store import EtcdAccess

DEFAULT_NAME: Final = "tiphys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a store, or one member of one, stands. Sizes in bytes; `quota` 0: not told."""

    endpoint: str
    version: str = ""
    revision: int = 0
    compacted_revision: int = 0  # 0: none, or not told
    size: int = 0
    size_in_use: int = 0
    quota: int = 0
    leader: bool = True
    alarms: tuple[str, ...] = ()
    problem: str = ""  # why it does not answer; then nothing else is known
    errors: tuple[str, ...] = ()


class Target(Protocol):
    """What can be done to a store. Everything may raise StoreError."""

    def statuses(self) -> Sequence[Standing]:
        """How it stands, member by member."""

    def compact(self, revision: int) -> int:
        """Make `revision` (0: the newest) the oldest that can be read; what it is then."""

    def defragment(self) -> Iterable[str]:
        """Give space back; the names of those that have, as they have."""

    def alarms(self) -> Sequence[tuple[str, str]]:
        """(who, which) of the alarms that are raised."""

    def disarm(self) -> Sequence[tuple[str, str]]:
        """Lift all alarms; those that were raised."""

    def save(self, path: Path) -> None:
        """Write a snapshot to the new file `path`, which is whole or not there."""


def add_cluster_flags(flags: argparse.ArgumentParser) -> None:
    """Flags that name a cluster of this machine, or the directory of a store."""
    flags.add_argument("--name", help=f"name of the cluster ({DEFAULT_NAME})")
    flags.add_argument("--state-dir", type=Path, help="where its state is kept, if not in the usual place")
    flags.add_argument("--data-dir", type=Path, help="a store's own directory, instead of a cluster's name")


def add_target_flags(flags: argparse.ArgumentParser) -> None:
    """As `add_cluster_flags`, and those that name members of etcd, as etcdctl has them."""
    add_cluster_flags(flags)
    flags.add_argument("--endpoints", help="URLs of etcd's members, with commas, instead of a cluster's name")
    flags.add_argument("--cacert", type=Path, help="authority of the members' certificates")
    flags.add_argument("--cert", type=Path, help="certificate shown to them")
    flags.add_argument("--key", type=Path, help="its key")


def target_of(options: Any) -> Target:
    """The store the flags name. Raises CommandError when there is none, UsageError when they name two."""
    if options.endpoints and (options.data_dir or options.name or options.state_dir):
        raise UsageError("--endpoints names etcd's members; it does not go with a cluster or a directory")
    if options.endpoints:
        return _members(options.endpoints, EtcdAccess(ca=options.cacert, certificate=options.cert, key=options.key))
    if options.data_dir is None:
        layout = Layout.of(options.name or DEFAULT_NAME, options.state_dir)
        spec = specs.load(layout.spec)
        if spec is not None and spec.datastore != "sqlite":
            files = (spec.etcd_cafile, spec.etcd_certfile, spec.etcd_keyfile)
            ca, certificate, key = (Path(name) if name else None for name in files)
            return _members(spec.datastore, EtcdAccess(ca=ca, certificate=certificate, key=key))
    from tiphys.cmd.etcd.embedded import Embedded

    directory = directory_of(options)
    if not Embedded.is_in(directory):
        raise CommandError(f"there is no store in {directory}; --name, --state-dir or --data-dir says where it is")
    return Embedded(directory)


def directory_of(options: Any) -> Path:
    """The directory of the embedded store the flags name. Raises UsageError when they name two."""
    if options.data_dir is None:
        return Layout.of(options.name or DEFAULT_NAME, options.state_dir).store
    if options.name or options.state_dir:
        raise UsageError("--data-dir names a store's directory; it does not go with a cluster")
    directory: Path = options.data_dir
    return directory


def _members(urls: str, access: EtcdAccess) -> Target:
    from tiphys.cmd.etcd.members import Members  # gRPC takes a while to load

    return Members(urls.split(","), access)
