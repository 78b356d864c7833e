"""`tiphys images` (a job of `up`): the images a cluster cannot do without, assembled from what this machine has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tiphys.base.notify import notify
from tiphys.cmd.cluster.images import assemble_images
from tiphys.cmd.component import add_common_flags, begin_logging
from tiphys.cmd.flags import FlagParser


def main(arguments: Sequence[str]) -> int:
    """Run the job."""
    flags = FlagParser("images", "Assemble the images of a cluster.")
    add_common_flags(flags, kubeconfig=False)
    flags.add_argument("--images", type=Path, required=True, help="the image store")
    options = flags.parse(arguments)
    begin_logging(options.verbosity)
    assemble_images(options.images)
    notify("progress", what="images")
    return 0
