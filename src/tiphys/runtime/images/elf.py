"""Which shared libraries an ELF file needs: the dynamic section, read without running anything.

`ldd` starts a process for each file and takes half a second for an interpreter's modules; this takes ten
milliseconds. elf(5), ld.so(8).
"""

from __future__ import annotations

import os
import struct
import subprocess
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

_ARCHITECTURE: Final[str] = sysconfig.get_config_var("MULTIARCH") or ""
_PT_LOAD: Final = 1
_PT_DYNAMIC: Final = 2
_PT_INTERP: Final = 3
_DT_NEEDED: Final = 1
_DT_STRTAB: Final = 5
_DT_RPATH: Final = 15
_DT_RUNPATH: Final = 29
# Debian's loader looks in those of the architecture too, without being told.
DEFAULT_DIRECTORIES: Final = (
    *("/lib", "/usr/lib", "/lib64", "/usr/lib64"),
    *(f"{base}/{_ARCHITECTURE}" for base in ("/lib", "/usr/lib") if _ARCHITECTURE),
)


@dataclass(frozen=True, slots=True)
class Dynamic:
    """What the loader reads of a file."""

    interpreter: str = ""
    needed: tuple[str, ...] = ()
    search: tuple[str, ...] = ()  # RPATH or RUNPATH, with $ORIGIN as it is


def read(path: Path) -> Dynamic | None:
    """The dynamic section of a 64-bit little-endian ELF file; None for any other file."""
    with path.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            return None
        (program_offset,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(program_offset)
        table = file.read(size * count)
        loads, dynamic, interpreter = [], (0, 0), ""
        for number in range(count):
            kind, _, offset, address, _, in_file = struct.unpack_from("<IIQQQQ", table, number * size)
            if kind == _PT_LOAD:
                loads.append((address, offset, in_file))
            elif kind == _PT_DYNAMIC:
                dynamic = (offset, in_file)
            elif kind == _PT_INTERP:
                interpreter = _read_at(file, offset, in_file).rstrip(b"\0").decode()
        return _dynamic(_read_at(file, *dynamic), loads, file, interpreter)


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _dynamic(section: bytes, loads: list[tuple[int, int, int]], file: BinaryIO, interpreter: str) -> Dynamic:
    entries = list(struct.iter_unpack("<QQ", section[: len(section) // 16 * 16]))
    address = next((value for tag, value in entries if tag == _DT_STRTAB), 0)
    strings = b""
    for start, offset, size in loads:
        if start <= address < start + size:
            strings = _read_at(file, offset + address - start, size - (address - start))

    def text(position: int) -> str:
        return strings[position : strings.index(b"\0", position)].decode()

    paths = [text(value) for tag, value in entries if tag in (_DT_RPATH, _DT_RUNPATH)]
    return Dynamic(
        interpreter,
        tuple(text(value) for tag, value in entries if tag == _DT_NEEDED),
        tuple(part for path in paths for part in path.split(":") if part),
    )


def library_cache() -> dict[str, Path]:
    """Library names to files as the machine's loader finds them (`ldconfig -p`)."""
    found: dict[str, Path] = {}
    for command in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
        try:
            text = subprocess.run([command, "-p"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        for line in text.splitlines():
            name, arrow, path = line.partition(" => ")
            if arrow and "x32" not in name:
                found.setdefault(name.split()[0], Path(path.strip()))
        break
    return found


def libraries(files: Iterable[Path]) -> list[Path]:
    """Every shared library (and loader) the files need, by the path at which the loader finds it.

    Libraries found beside the file that needs them ($ORIGIN) are included. A name nobody has is passed over: the
    loader would report it, for the file that needs it.
    """
    cache = library_cache()
    found: dict[Path, None] = {}
    waiting = list(files)
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        real = path.resolve()
        if real in seen:
            continue
        seen.add(real)
        dynamic = read(real)
        if dynamic is None:
            continue
        if dynamic.interpreter:
            found[Path(dynamic.interpreter)] = None
        for name in dynamic.needed:
            library = _locate(name, real, dynamic.search, cache)
            if library is not None:
                found[library] = None
                waiting.append(library)
    return list(found)


def _locate(name: str, user: Path, search: Iterable[str], cache: dict[str, Path]) -> Path | None:
    directories = [entry.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", str(user.parent)) for entry in search]
    for directory in directories:
        candidate = Path(directory, name)
        if candidate.exists():
            return Path(os.path.normpath(candidate))
    if name in cache:
        return cache[name]
    return next((path for base in DEFAULT_DIRECTORIES if (path := Path(base, name)).exists()), None)
