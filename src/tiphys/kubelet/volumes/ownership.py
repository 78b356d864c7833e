"""fsGroup on a volume: everything below its root is given to the group.

https://kubernetes.io/docs/tasks/configure-pod-container/security-context/
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from tiphys.api.core.v1 import Pod

_FILE_BITS: Final = 0o660
_DIRECTORY_BITS: Final = 0o2770


def apply_fs_group(pod: Pod, root: Path) -> None:
    """Give `root` to the pod's fsGroup as its fsGroupChangePolicy says; without an fsGroup nothing changes. Blocks."""
    security = pod.spec.security_context
    if security is None or security.fs_group is None:
        return
    give_to_group(root, security.fs_group, lazily=security.fs_group_change_policy == "OnRootMismatch")


def give_to_group(root: Path, group: int, *, lazily: bool) -> None:
    """Let `group` read and write everything below `root`, and own what is made there. Blocks.

    `lazily`: not when the root looks as if that had been done.
    """
    known = root.stat()
    if not stat.S_ISDIR(known.st_mode):
        return
    if lazily and known.st_gid == group and known.st_mode & _DIRECTORY_BITS == _DIRECTORY_BITS:
        return
    for directory, _, files in os.walk(root):
        for name in files:
            path = Path(directory, name)
            os.chown(path, -1, group, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(stat.S_IMODE(path.stat().st_mode) | _FILE_BITS)
        os.chown(directory, -1, group)
        os.chmod(directory, stat.S_IMODE(os.stat(directory).st_mode) | _DIRECTORY_BITS)
