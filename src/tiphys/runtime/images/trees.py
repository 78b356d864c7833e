"""Directory trees of images: written inside a root that no link leads out of, and told apart by a digest."""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import stat
from pathlib import Path

from tiphys.runtime import linux


class NotADirectory(Exception):
    """A path leads through something that is no directory."""


def directory_digest(root: Path) -> tuple[str, int]:
    """A digest over names, modes, owners and contents of a directory, and the bytes of its files."""
    whole = hashlib.sha256()
    size = 0
    for base, directories, files in os.walk(root):
        directories.sort()
        for name in sorted([*files, *directories]):
            path = Path(base, name)
            found = path.lstat()
            what = ""
            if stat.S_ISLNK(found.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(found.st_mode):
                size += found.st_size
                with path.open("rb") as file:
                    what = hashlib.file_digest(file, "sha256").hexdigest()
            line = f"{path.relative_to(root)}\0{found.st_mode:o} {found.st_uid} {found.st_gid} {found.st_rdev} {what}\n"
            whole.update(line.encode(errors="surrogateescape"))
    return f"sha256:{whole.hexdigest()}", size


def resolve_directory(root: Path, path: str, *, make: bool) -> Path:
    """The directory `path` inside `root`, links followed inside of it only; made where it is missing."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        current = "/"
        for part in [part for part in posixpath.normpath(path).split("/") if part not in ("", ".")]:
            current = posixpath.join(current, part)
            try:
                os.close(linux.open_in_root(fd, current, os.O_RDONLY | os.O_DIRECTORY))
            except FileNotFoundError:
                if not make:
                    raise
                parent = linux.open_in_root(fd, posixpath.dirname(current), os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.mkdir(part, 0o755, dir_fd=parent)
                finally:
                    os.close(parent)
            except NotADirectoryError as error:
                raise NotADirectory(f"cannot copy to {path}: {current} is not a directory") from error
        found = linux.open_in_root(fd, current, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return Path(os.readlink(f"/proc/self/fd/{found}"))
        finally:
            os.close(found)
    finally:
        os.close(fd)


def copy_one(source: Path, target: Path, owner: tuple[int, int], mode: int | None) -> None:
    if target.is_symlink() or target.is_file():
        target.unlink()
    shutil.copy2(source, target, follow_symlinks=False)
    give_owner(target, source, owner, mode)


def give_owner(target: Path, source: Path, owner: tuple[int, int], mode: int | None) -> None:
    os.chown(target, *owner, follow_symlinks=False)
    if not target.is_symlink():
        target.chmod(mode if mode is not None else stat.S_IMODE(source.lstat().st_mode))
