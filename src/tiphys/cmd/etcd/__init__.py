"""`tiphys etcd`: the state of a cluster kept: snapshots, compaction, defragmentation, alarms.

The words are those of etcdctl and etcdutl. Without `--endpoints` they are about the embedded store, of a cluster by its
name or in a directory, whether it runs or not; with them about the members of an etcd cluster.

    target.py    which store is meant
    embedded.py  SQLite: asks the process that has it open, or opens it      members.py  etcd, member by member
    snapshots.py saved, looked at, restored                                  output.py   tables and JSON
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from tiphys.cmd.errors import CommandError, UsageError
from tiphys.cmd.etcd import output, snapshots
from tiphys.cmd.etcd.target import add_target_flags, target_of
from tiphys.cmd.flags import FlagParser
from tiphys.store import StoreError


def _endpoint_status(flags: FlagParser, words: Sequence[str]) -> None:
    options = _parsed(flags, words)
    output.statuses(target_of(options).statuses(), options.write_out)


def _compact(flags: FlagParser, words: Sequence[str]) -> None:
    flags.add_argument("revision", type=int, nargs="?", default=0, help="what becomes the oldest revision (the newest)")
    options = _parsed(flags, words)
    if options.revision < 0:
        raise UsageError("a revision is a number above 0")
    print(f"compacted revision {target_of(options).compact(options.revision)}")


def _defragment(flags: FlagParser, words: Sequence[str]) -> None:
    for name in target_of(_parsed(flags, words)).defragment():
        print(f"Finished defragmenting {name}")


def _alarm_list(flags: FlagParser, words: Sequence[str]) -> None:
    options = _parsed(flags, words)
    output.alarms(target_of(options).alarms(), options.write_out)


def _alarm_disarm(flags: FlagParser, words: Sequence[str]) -> None:
    options = _parsed(flags, words)
    output.alarms(target_of(options).disarm(), options.write_out)


Action = Callable[[FlagParser, Sequence[str]], None]
ACTIONS: Final[dict[str, tuple[Action, str]]] = {
    "snapshot save": (snapshots.save, "write the state to a file, while the server runs"),
    "snapshot status": (snapshots.status, "check a snapshot, and tell what it holds"),
    "snapshot restore": (snapshots.restore_to, "make the state of a new cluster from a snapshot"),
    "compact": (_compact, "forget what only older revisions could read"),
    "defrag": (_defragment, "give space freed by compaction back to the disk"),
    "alarm list": (_alarm_list, "show alarms that are raised"),
    "alarm disarm": (_alarm_disarm, "lift them"),
    "endpoint status": (_endpoint_status, "revision, sizes, quota and alarms of the store"),
}


def main(arguments: Sequence[str]) -> int:
    """Run `tiphys etcd ACTION …`."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        actions = "\n".join(f"  {name:<18}{what}" for name, (_, what) in ACTIONS.items())
        print(f"Usage: tiphys etcd ACTION [flags]\n\n{actions}\n\nUse 'tiphys etcd ACTION --help' for its flags.")
        return 0
    for name, (work, what) in ACTIONS.items():
        parts = name.split()
        if words[: len(parts)] == parts:
            flags = FlagParser(f"etcd {name}", f"{what[0].upper()}{what[1:]}.")
            try:
                work(flags, words[len(parts) :])
            except StoreError as error:
                raise CommandError(str(error)) from error
            return 0
    raise UsageError(f'unknown action "{" ".join(words[:2])}": there are {", ".join(ACTIONS)}')


def _parsed(flags: FlagParser, words: Sequence[str]) -> Any:
    add_target_flags(flags)
    output.add_flag(flags)
    return flags.parse(words)
