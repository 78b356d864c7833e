"""`tiphys etcd snapshot`: save, status, restore.

https://kubernetes.io/docs/tasks/administer-cluster/configure-upgrade-etcd/#backing-up-an-etcd-cluster
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tiphys.cmd.cluster.control import ControlClient
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.errors import CommandError, UsageError
from tiphys.cmd.etcd import output
from tiphys.cmd.etcd.target import DEFAULT_NAME, add_cluster_flags, add_target_flags, directory_of, target_of
from tiphys.cmd.flags import FlagParser
from tiphys.store import restore
from tiphys.store.snapshot import Summary, summarize

# More revisions than a cluster makes between a snapshot and its restoration, as Kubernetes' and etcd's pages advise.
BUMP: Final = 1_000_000_000


def save(flags: FlagParser, words: Sequence[str]) -> None:
    """`snapshot save FILE`."""
    flags.add_argument("file", type=Path, help="the file to write")
    add_target_flags(flags)
    options = flags.parse(words)
    try:
        if options.file.exists():
            raise CommandError(f"{options.file} exists; a snapshot is never written over another file")
        target_of(options).save(options.file)
    except OSError as error:
        raise CommandError(f"cannot write {options.file}: {error.strerror}") from error
    print(f"Snapshot saved at {options.file}")


def status(flags: FlagParser, words: Sequence[str]) -> None:
    """`snapshot status FILE`."""
    flags.add_argument("file", type=Path, help="the snapshot")
    output.add_flag(flags)
    options = flags.parse(words)
    output.summary(_summary(options.file), options.write_out)


def _summary(file: Path) -> Summary:
    try:
        found = summarize(file)
        if found is None:
            from tiphys.cmd.etcd.members import is_whole

            if not is_whole(file):
                raise CommandError(f"{file} is no snapshot, or it is damaged")
            digest = file.read_bytes()[-32:].hex()
            return Summary(digest, None, None, None, file.stat().st_size, "etcd")
        return found
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error


def restore_to(flags: FlagParser, words: Sequence[str]) -> None:
    """`snapshot restore FILE`."""
    flags.add_argument("file", type=Path, help="the snapshot")
    add_cluster_flags(flags)
    text = "how far the revision is raised, so that it passes all that clients have seen; they list again then"
    flags.add_argument("--bump-revision", type=int, default=BUMP, help=f"{text} ({BUMP})")
    flags.boolean("mark-compacted", True, "no watch goes on from before the restoration; without it the raise is none")
    options = flags.parse(words)
    if options.bump_revision < 0:
        raise UsageError("--bump-revision must not be negative")
    if options.bump_revision and not options.mark_compacted:
        raise UsageError("--mark-compacted=false goes with --bump-revision=0 only: watches would miss changes silently")
    if _summary(options.file).format == "etcd":
        raise CommandError(
            f"{options.file} is a snapshot of etcd's own: `etcdutl snapshot restore` makes a member's directory of it"
        )
    if options.data_dir is None:
        layout = Layout.of(options.name or DEFAULT_NAME, options.state_dir)
        if ControlClient.connect(layout) is not None:
            raise CommandError(f'cluster "{layout.name}" is running; `tiphys down` stops it')
    directory = directory_of(options)
    try:
        restore(options.file, directory, bump_revision=options.bump_revision)
    except OSError as error:
        raise CommandError(f"cannot restore into {directory}: {error.strerror}") from error
    print(f"Restored into {directory}")
