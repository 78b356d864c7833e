"""The images a cluster cannot do without, assembled from what this machine has."""

from __future__ import annotations

from pathlib import Path

from tiphys.base.log import get_logger
from tiphys.cmd.errors import CommandError
from tiphys.dns import IMAGE_PACKAGES
from tiphys.runtime.images import assemble
from tiphys.runtime.images.store import ImageStore
from tiphys.runtime.images.system import ensure_system

log = get_logger(__name__)


def assemble_images(directory: Path) -> None:
    """Make those that are missing; nothing happens to what is there. Blocks. Raises CommandError."""
    store = ImageStore(directory)
    try:
        assemble.ensure_pause(store)
        ensure_system(store, packages=IMAGE_PACKAGES)
    except assemble.AssemblyError as error:
        raise CommandError(str(error)) from error
    try:
        assemble.ensure_busybox(store)
    except assemble.AssemblyError as error:
        # Convenient, but a cluster runs without it.
        log.warning("the busybox image is not made: %s", error)
