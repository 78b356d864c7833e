"""Images put together from this machine's own files, for machines that reach no registry.

    registry.k8s.io/pause:3.10.1     our own pause program
    docker.io/library/busybox        the machine's static busybox with all its applets
    tiphys.local/system:<version>    this Python, this package and what it needs (see `system`)

An image's layer is written directly as the directory that overlayfs uses; nothing is packed or unpacked. Its
digest is taken over the listing (names, modes, sizes, contents or times), so that what has not changed is found
in the store and costs nothing the second time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tiphys.runtime.images import pause
from tiphys.runtime.images.reference import parse
from tiphys.runtime.images.store import Image, ImageStore, digest_of, layer_names
from tiphys.runtime.linux import architecture

PAUSE_IMAGE: Final = "registry.k8s.io/pause:3.10.1"
BUSYBOX_IMAGES: Final = (
    "docker.io/library/busybox:latest",
    "docker.io/library/busybox:1.36",
    "docker.io/library/busybox:1.37",
)
LAYER_TYPE: Final = "application/vnd.tiphys.image.layer.v1.directory"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
# A fixed time in images' configurations: the same content is the same image.
CREATED: Final = "2024-01-01T00:00:00Z"


class AssemblyError(Exception):
    """This machine lacks what the image is made of; the text says what to install."""


def add_directory_image(
    store: ImageStore,
    names: Sequence[str],
    *,
    recipe: str,
    fill: Callable[[Path], None],
    config: Mapping[str, Any],
    size: int = 0,
) -> Image:
    """Enter an image of one layer that `fill` writes into an empty directory.

    `recipe` identifies the content: the layer's digest is its hash, and an existing layer with that digest is
    taken without calling `fill`. The image is pinned, for it cannot be pulled again.
    """
    diff_id = digest_of(recipe.encode())
    document = {
        "created": CREATED,
        "architecture": architecture(),
        "os": "linux",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": CREATED, "created_by": "tiphys image assemble"}],
    }
    references = [parse(name) for name in names]
    (layer,) = layer_names([diff_id])
    with store.adding():
        store.make_layer(layer, fill)
        image_id = store.put_blob(msgspec.json.encode(document))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": image_id, "size": store.blob(image_id).stat().st_size},
            "layers": [{"mediaType": LAYER_TYPE, "digest": diff_id, "size": size}],
        }
        manifest_digest = store.put_blob(msgspec.json.encode(manifest))
        digests = tuple(dict.fromkeys(str(reference.with_digest(manifest_digest)) for reference in references))
        return store.add(
            Image(
                id=image_id,
                manifest=manifest_digest,
                layers=(layer,),
                size=size,
                tags=tuple(str(reference) for reference in references),
                digests=digests,
                pinned=True,
            )
        )


def ensure_pause(store: ImageStore) -> Image:
    """The pause image; made where it is missing."""
    found = store.find(PAUSE_IMAGE)
    if found is not None:
        return found
    try:
        program = pause.program()
    except KeyError as error:
        raise AssemblyError(f"there is no pause program for {architecture()}: import {PAUSE_IMAGE}") from error

    def fill(root: Path) -> None:
        write_file(root / "pause", program, 0o755)

    return add_directory_image(
        store,
        [PAUSE_IMAGE],
        recipe=f"pause {hashlib.sha256(program).hexdigest()}",
        fill=fill,
        config={"Entrypoint": ["/pause"], "User": "65535:65535", "WorkingDir": "/"},
        size=len(program),
    )


def ensure_busybox(store: ImageStore, binary: Path = Path("/bin/busybox")) -> Image:
    """The busybox image from a static busybox; its applets are hard links in /bin, as in Docker's image."""
    try:
        content = binary.read_bytes()
        applets = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise AssemblyError(f"{binary} cannot be used: install busybox-static") from error
    if b"/ld-linux" in content[:4096]:
        raise AssemblyError(f"{binary} is not static: install busybox-static")

    def fill(root: Path) -> None:
        make_skeleton(root)
        write_file(root / "bin/busybox", content, 0o755)
        for applet in applets:
            if applet != "busybox":
                os.link(root / "bin/busybox", root / "bin" / applet)
        os.link(root / "bin/busybox", root / "usr/bin/env")

    return add_directory_image(
        store,
        list(BUSYBOX_IMAGES),
        recipe=f"busybox 1 {hashlib.sha256(content).hexdigest()} {' '.join(applets)}",
        fill=fill,
        config={"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        size=len(content),
    )


PASSWD: Final = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP: Final = """root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
lp:x:7:
mail:x:8:
wheel:x:10:root
www-data:x:33:
operator:x:37:
users:x:100:
nogroup:x:65534:
"""
NSSWITCH: Final = "passwd: files\ngroup: files\nhosts: files dns\n"


def make_skeleton(root: Path) -> None:
    """The directories and files of /etc every program expects."""
    for name in ("bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr/bin", "usr/sbin", "sbin", "run"):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(0o755)
    for name in ("var/spool/mail", "var/www", "var/run", "var/tmp", "usr/local/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "root").chmod(0o700)
    for name, text in (("passwd", PASSWD), ("group", GROUP), ("nsswitch.conf", NSSWITCH)):
        write_file(root / "etc" / name, text.encode(), 0o644)


def write_file(path: Path, content: bytes, mode: int) -> None:
    """A new file with this mode whatever the umask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def listing(paths: Iterable[Path]) -> str:
    """Names, sizes and times of files, to see whether any has changed."""
    lines = []
    for path in paths:
        found = path.lstat()
        what = os.readlink(path) if stat.S_ISLNK(found.st_mode) else f"{found.st_size} {found.st_mtime_ns}"
        lines.append(f"{path} {found.st_mode:o} {what}")
    return "\n".join(lines)


def link_or_copy(source: Path, target: Path, *, copy: bool = False) -> None:
    """Put the file `source` at `target` without copying its content where the file system allows (unless `copy`).

    Only root's files that nobody else may write are linked: a layer must not change under its containers.
    """
    source = Path(os.path.realpath(source))  # link(2) would link a symbolic link itself
    found = source.stat()
    if not copy and found.st_uid == 0 and not found.st_mode & 0o022:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system, or too many links
    shutil.copy2(source, target)
    os.chown(target, 0, 0)
