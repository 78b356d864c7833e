"""The end of a build: a stage becomes an image of the store."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tiphys.runtime.images.assemble import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE
from tiphys.runtime.images.reference import parse as parse_reference
from tiphys.runtime.images.stage import Stage, moment
from tiphys.runtime.images.store import Image, ImageStore, layer_names
from tiphys.runtime.images.trees import directory_digest
from tiphys.runtime.linux import architecture


def commit(store: ImageStore, stage: Stage, tags: Sequence[str]) -> Image:
    """Enter the stage as an image."""
    diff_ids = list(stage.diff_ids)
    digest, size = directory_digest(stage.upper)
    changed = any(stage.upper.iterdir())
    if changed or not diff_ids:
        diff_ids.append(digest)
    names = layer_names(diff_ids)
    if len(names) > len(stage.base):

        def fill(directory: Path) -> None:
            directory.rmdir()
            shutil.move(stage.upper, directory)

        store.make_layer(names[-1], fill)
    document = {
        "created": moment(),
        "architecture": architecture(),
        "os": "linux",
        "config": stage.config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": stage.history,
    }
    image_id = store.put_blob(msgspec.json.encode(document))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": image_id,
            "size": store.blob(image_id).stat().st_size,
        },
        "layers": [{"mediaType": LAYER_TYPE, "digest": diff_id, "size": 0} for diff_id in diff_ids],
    }
    manifest_digest = store.put_blob(msgspec.json.encode(manifest))
    return store.add(
        Image(
            id=image_id,
            manifest=manifest_digest,
            layers=names,
            size=stage.size + size,
            tags=tuple(tags),
            digests=tuple(str(parse_reference(tag).with_digest(manifest_digest)) for tag in tags),
            pinned=True,
        )
    )
