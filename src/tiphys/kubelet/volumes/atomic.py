"""Files of a volume that change all at once.

```
 volume/
   ..data -> ..2026_11_20_23_10_49.123456789     replaced by rename(2): the moment of change
   ..2026_11_20_23_10_49.123456789/
     key, dir/other
   key -> ..data/key                              one link a top-level name, made once
   dir -> ..data/dir
```
A reader sees the old files or the new ones, never a mixture
(https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final

DATA: Final = "..data"
_NEW_DATA: Final = "..data_tmp"


@dataclass(frozen=True, slots=True)
class File:
    """One file of a payload; `owner` is a uid to give it to, where that matters."""

    content: bytes
    mode: int = 0o644
    owner: int | None = None


Payload = Mapping[str, File]  # by path relative to the volume


def check_path(path: str) -> None:
    """Refuse a path that would leave the volume or hide our own links. Raises ValueError."""
    parts = PurePosixPath(path).parts
    if not path or path.startswith("/") or ".." in parts or parts[0].startswith(".."):
        raise ValueError(f"invalid path: must be relative and must not contain '..': {path}")


def write_atomically(directory: Path, payload: Payload, group: int | None = None) -> bool:
    """Make `directory` show exactly `payload`; False when it did already. `group` is the pod's fsGroup."""
    for path in payload:
        check_path(path)
    current = _current(directory)
    if current is not None and _same(current, payload):
        _link_names(directory, payload)
        return False
    fresh = directory / datetime.now(UTC).strftime("..%Y_%m_%d_%H_%M_%S.%f")
    fresh.mkdir(mode=0o755)
    fresh.chmod(0o755)
    for path, file in payload.items():
        _write(fresh, path, file)
    if group is not None:
        _give_to_group(fresh, group)
    new_link = directory / _NEW_DATA
    new_link.unlink(missing_ok=True)
    new_link.symlink_to(fresh.name)
    new_link.rename(directory / DATA)
    _link_names(directory, payload)
    if current is not None:
        shutil.rmtree(current, ignore_errors=True)
    return True


def _current(directory: Path) -> Path | None:
    try:
        return directory / os.readlink(directory / DATA)
    except OSError:
        return None


def _same(current: Path, payload: Payload) -> bool:
    found = {str(path.relative_to(current)): path for path in current.rglob("*") if path.is_file()}
    if found.keys() != {str(PurePosixPath(path)) for path in payload}:
        return False
    return all(
        (current / path).read_bytes() == file.content and _owner_matches(current / path, file)
        for path, file in payload.items()
    )


def _owner_matches(path: Path, file: File) -> bool:
    return file.owner is None or path.stat().st_uid == file.owner


def _write(root: Path, path: str, file: File) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.content)
    target.chmod(file.mode)  # whatever the umask says
    if file.owner is not None:
        os.chown(target, file.owner, -1)


def _give_to_group(root: Path, group: int) -> None:
    """Owned by the pod's group and readable to it; directories hand the group on."""
    for path in (root, *root.rglob("*")):
        mode = path.stat().st_mode
        os.chown(path, -1, group)
        path.chmod(mode | (0o2550 if path.is_dir() else 0o440))


def _link_names(directory: Path, payload: Payload) -> None:
    wanted = {PurePosixPath(path).parts[0] for path in payload}
    for entry in os.scandir(directory):
        if not entry.name.startswith("..") and entry.is_symlink() and entry.name not in wanted:
            os.unlink(entry.path)
    for name in wanted:
        link = directory / name
        if not link.is_symlink():
            link.symlink_to(f"{DATA}/{name}")
