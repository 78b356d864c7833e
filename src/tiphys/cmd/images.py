"""`tiphys images` (a job of `up`): the images a cluster cannot do without, assembled from what this machine has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tiphys.base.log import get_logger
from tiphys.cmd.component import add_common_flags, begin_logging
from tiphys.cmd.errors import CommandError
from tiphys.cmd.flags import FlagParser
from tiphys.dns import IMAGE_PACKAGES
from tiphys.runtime.images import assemble
from tiphys.runtime.images.store import ImageStore

log = get_logger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Make what is missing; nothing happens to what is there."""
    flags = FlagParser("images", "Assemble the images of a cluster.")
    add_common_flags(flags, kubeconfig=False)
    flags.add_argument("--images", type=Path, required=True, help="the image store")
    options = flags.parse(arguments)
    begin_logging(options.verbosity)
    store = ImageStore(options.images)
    try:
        assemble.ensure_pause(store)
        assemble.ensure_system(store, IMAGE_PACKAGES)
    except assemble.AssemblyError as error:
        raise CommandError(str(error)) from error
    try:
        assemble.ensure_busybox(store)
    except assemble.AssemblyError as error:
        # Convenient, but a cluster runs without it.
        log.warning("the busybox image is not made: %s", error)
    return 0
