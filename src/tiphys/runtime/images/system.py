"""The image `tiphys.local/system`: this Python, its standard library, this package and what it needs.

Cluster DNS and other add-ons run in it as `python -m tiphys.cmd.main …`. Files are hard links where the file system
allows, so it is made in a fraction of a second whatever its size; it works with a distribution's Python and with
one built elsewhere (pyenv), because everything stays at its own path:

    interpreter, standard library        at their paths on this machine
    shared libraries                     where the loader finds them
    /usr/lib/tiphys/site-packages        this package and the packages asked for
    /usr/bin/python3, /usr/bin/python    links to the interpreter
    /bin/busybox and applets             where this machine has a static busybox, for a look inside
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import tiphys
from tiphys.runtime.images import elf
from tiphys.runtime.images.assemble import AssemblyError, add_directory_image, link_or_copy, listing, make_skeleton
from tiphys.runtime.images.store import Image, ImageStore

NAME: Final = "tiphys.local/system"
SITE: Final = Path("/usr/lib/tiphys/site-packages")
# What the parts that run inside the cluster import; with what these need in turn.
PACKAGES: Final = (
    "aiohttp",
    "cryptography",
    "dnslib",
    "httptools",
    "isal",
    "msgspec",
    "orjson",
    "protobuf",
    "pyroute2",
    "PyYAML",
    "uvloop",
)
# Parts of the standard library that no service uses; `config-*` is for linking C programs.
_LEFT_OUT: Final = re.compile(
    r"test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|site-packages|dist-packages|pydoc_data|config-.*"
)
_LEFT_OUT_MODULES: Final = ("_tkinter.", "_test", "_ctypes_test", "xxlimited", "_xxtestfuzz")
_REQUIREMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LOADER_DIRECTORIES: Final = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")


def system_image_name(version: str = tiphys.__version__) -> str:
    """The reference pods use."""
    return f"{NAME}:{version}"


def ensure_system(store: ImageStore, *, version: str = tiphys.__version__, packages: Sequence[str] = PACKAGES) -> Image:
    """The system image of this installation; made where it is missing or anything in it has changed.

    Raises AssemblyError when a package asked for is not installed.
    """
    files = dict(_interpreter_files())
    files.update(_package_files(packages))
    binaries = [source for source in files.values() if _may_be_elf(source)]
    there = set(files.values())  # packages bring libraries of their own
    needed = elf.libraries([Path(sys.executable).resolve(), *binaries])
    files.update({library: library for library in needed if library not in there})
    links = _links()
    environment = _environment(files)

    def fill(root: Path) -> None:
        make_skeleton(root)
        made: set[Path] = set()
        for target, source in files.items():
            place = root / target.relative_to("/")
            _make_directories(root, place.parent, made)
            # This package may be a developer's working copy, whose files are written in place.
            link_or_copy(source, place, copy=target.is_relative_to(SITE / "tiphys"))
        for link, destination in links.items():
            place = root / link.relative_to("/")
            _make_directories(root, place.parent, made)
            place.symlink_to(destination)
        _add_busybox(root)

    return add_directory_image(
        store,
        [system_image_name(version)],
        recipe="\n".join((f"system 1 {environment} {links}", *map(str, files), listing(files.values()))),
        fill=fill,
        config={"Entrypoint": ["/usr/bin/python3"], "Cmd": ["-m", "tiphys.cmd.main"], "Env": environment},
        size=sum(source.stat().st_size for source in files.values()),
    )


def _interpreter_files() -> Iterator[tuple[Path, Path]]:
    """(place in the image, file here) of the interpreter and the standard library."""
    interpreter = Path(sys.executable).resolve()
    yield interpreter, interpreter
    # Inside a virtual environment the standard library is the base installation's.
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix, "installed_base": sys.base_prefix}
    paths = sysconfig.get_paths(vars=base)
    for directory in sorted({paths["stdlib"], paths["platstdlib"]}):
        for path in _walk(Path(directory)):
            yield path, path
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.exists():
        yield certificates, certificates.resolve()


def _walk(directory: Path) -> Iterator[Path]:
    for base, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not _LEFT_OUT.fullmatch(name))
        for name in sorted(names):
            path = Path(base, name)
            if not name.endswith((".a", ".exe")) and not name.startswith(_LEFT_OUT_MODULES) and path.is_file():
                yield path


def _package_files(packages: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    source = Path(tiphys.__file__).parent
    for path in _walk(source):
        yield SITE / "tiphys" / path.relative_to(source), path
    for distribution in _closure(packages):
        for file in distribution.files or []:
            # Programs and manual pages lie outside of the package directory.
            if file.parts[0] == ".." or "tests" in file.parts:
                continue
            path = Path(str(distribution.locate_file(file)))
            if path.is_file():
                yield SITE / file, path


def _closure(packages: Iterable[str]) -> Iterator[importlib.metadata.Distribution]:
    """The packages and what they require, where it is installed."""
    seen: set[str] = set()
    waiting = [(name, True) for name in packages]
    while waiting:
        name, demanded = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in seen:
            continue
        seen.add(key)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            if demanded:
                raise AssemblyError(f"the Python package {name} is not installed") from error
            continue
        yield distribution
        for requirement in distribution.requires or []:
            found = _REQUIREMENT.match(requirement)
            if found and "extra ==" not in requirement:
                waiting.append((found[0], False))


def _may_be_elf(path: Path) -> bool:
    return ".so" in path.name


def _links() -> dict[Path, str]:
    interpreter = str(Path(sys.executable).resolve())
    links = {Path("/usr/bin/python3"): interpreter, Path("/usr/bin/python"): interpreter}
    return {link: target for link, target in links.items() if str(link) != interpreter}


def _environment(files: Iterable[Path]) -> list[str]:
    environment = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"PYTHONPATH={SITE}",
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONUNBUFFERED=1",
        "PYTHONNOUSERSITE=1",
    ]
    # There is no loader cache in the image: directories the loader does not know by itself are named.
    unusual = sorted(
        {
            str(path.parent)
            for path in files
            if path.name.startswith("lib")
            and ".so" in path.name
            and not path.is_relative_to(SITE)
            and not str(path.parent).startswith(_LOADER_DIRECTORIES)
        }
    )
    if unusual:
        environment.append(f"LD_LIBRARY_PATH={':'.join(unusual)}")
    return environment


def _make_directories(root: Path, directory: Path, made: set[Path]) -> None:
    """Directories everybody may enter, whatever the umask and whatever they are on this machine."""
    if directory in made or directory == root:
        return
    _make_directories(root, directory.parent, made)
    if not directory.is_dir():
        directory.mkdir()
    directory.chmod(0o755)
    made.add(directory)


def _add_busybox(root: Path) -> None:
    busybox = Path("/bin/busybox")
    if not busybox.exists() or b"/ld-linux" in busybox.read_bytes()[:4096]:
        return
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=False).stdout.split()
    link_or_copy(busybox, root / "bin/busybox")
    for applet in applets:
        place = root / "bin" / applet
        if not place.exists():
            place.symlink_to("busybox")
