"""`tiphys etcd snapshot`: save, status, restore.

https://kubernetes.io/docs/tasks/administer-cluster/configure-upgrade-etcd/#backing-up-an-etcd-cluster
"""

from __future__ import annotations

import tempfile
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
from tiphys.store.snapshot import Contents, Summary, summarize, write_snapshot

# More revisions than a cluster makes between a snapshot and its restoration, as Kubernetes' and etcd's pages advise.
BUMP: Final = 1_000_000_000
ROOT: Final = "/registry"


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
        if found is not None:
            return found
        contents = _backup(file, ROOT)
        digest = file.read_bytes()[-32:].hex()
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error
    return Summary(
        digest, contents.revision, contents.compacted_revision, len(contents.kept), file.stat().st_size, "etcd"
    )


def _backup(file: Path, prefix: str) -> Contents:
    # The API's kinds and gRPC take a while to load.
    from tiphys.apiserver.registry.upstream_keys import layout
    from tiphys.store.etcd.backup import read_backup

    return read_backup(file, prefix=prefix, layout=layout())


def restore_to(flags: FlagParser, words: Sequence[str]) -> None:
    """`snapshot restore FILE`."""
    flags.add_argument("file", type=Path, help="the snapshot")
    add_cluster_flags(flags)
    text = "how far the revision is raised, so that it passes all that clients have seen; they list again then"
    flags.add_argument("--bump-revision", type=int, default=BUMP, help=f"{text} ({BUMP})")
    flags.add_argument("--etcd-prefix", default=ROOT, help=f"what keys begin with in a snapshot of etcd ({ROOT})")
    flags.boolean("mark-compacted", True, "no watch goes on from before the restoration; without it the raise is none")
    options = flags.parse(words)
    if options.bump_revision < 0:
        raise UsageError("--bump-revision must not be negative")
    if options.bump_revision and not options.mark_compacted:
        raise UsageError("--mark-compacted=false goes with --bump-revision=0 only: watches would miss changes silently")
    if options.data_dir is None:
        place = Layout.of(options.name or DEFAULT_NAME, options.state_dir)
        if ControlClient.connect(place) is not None:
            raise CommandError(f'cluster "{place.name}" is running; `tiphys down` stops it')
    directory = directory_of(options)
    try:
        _restore(options.file, directory, options.etcd_prefix, options.bump_revision)
    except OSError as error:
        raise CommandError(f"cannot restore into {directory}: {error.strerror}") from error
    print(f"Restored into {directory}")


def _restore(file: Path, directory: Path, prefix: str, bump: int) -> None:
    """Restore our snapshots as they are, etcd's as what an embedded store makes of them."""
    if summarize(file) is not None:
        restore(file, directory, bump_revision=bump)
        return
    contents = _backup(file, prefix)
    with tempfile.TemporaryDirectory() as temporary:
        translated = Path(temporary, "snapshot.db")
        write_snapshot(translated, contents)
        restore(translated, directory, bump_revision=bump)
