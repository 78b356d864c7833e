"""What is mounted for whom, kept beside the mount so that a kubelet started anew can take it away.

```
 <root>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/vol_data.json      the record
                                                     /mount              published (a file system)
 <root>/plugins/kubernetes.io/csi/<driver>/<sha256 of the handle>/globalmount            staged
                                                                /vol_data.json          the record of that
 <root>/plugins/kubernetes.io/csi/volumeDevices/staging/<volume>                         staged (a device)
                                               /publish/<volume>/<uid>                   published (a device)
                                               /<volume>/data/vol_data.json              the record of its staging
```
Drivers look at these paths: they are upstream's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Final

from tiphys.kubelet.paths import Paths

NAME: Final = "kubernetes.io/csi"
FILE: Final = "vol_data.json"
PERSISTENT: Final = "Persistent"
EPHEMERAL: Final = "Ephemeral"


class Progress(StrEnum):
    """How far mounting has come, at least: what the record says is undone."""

    ATTACHING = "attaching"
    STAGING = "staging"
    PUBLISHING = "publishing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One volume of one pod. `attachment` is the name of its VolumeAttachment, "" where none is needed."""

    driver: str
    handle: str
    volume: str
    lifecycle: str = PERSISTENT
    attachment: str = ""
    block: bool = False
    progress: Progress = Progress.ATTACHING

    # As the file names them: those that upstream's has too are upstream's.
    FIELDS: ClassVar = {
        "driver": "driverName",
        "handle": "volumeHandle",
        "volume": "specVolID",
        "lifecycle": "volumeLifecycleMode",
        "attachment": "attachmentID",
        "block": "block",
        "progress": "progress",
    }

    def save(self, directory: Path) -> None:
        """Write it into a volume's directory, whole or not at all."""
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        document = {wire: getattr(self, name) for name, wire in self.FIELDS.items()}
        fresh = directory / f".{FILE}"
        fresh.write_text(json.dumps(document))
        os.replace(fresh, directory / FILE)

    @classmethod
    def load(cls, directory: Path) -> Record | None:
        """The record in a volume's directory; None without one."""
        try:
            document = json.loads((directory / FILE).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        values = {name: document[wire] for name, wire in cls.FIELDS.items() if wire in document}
        return cls(**{**values, "progress": Progress(values.get("progress", Progress.PUBLISHING))})

    def same_volume(self, other: Record) -> bool:
        return (self.driver, self.handle) == (other.driver, other.handle)


def staging_path(paths: Paths, record: Record) -> Path:
    """Where the volume is staged, once for all pods of the node."""
    root = paths.plugins / NAME
    if record.block:
        return root / "volumeDevices" / "staging" / record.volume
    return root / record.driver / sha256(record.handle.encode()).hexdigest() / "globalmount"


def record_directory(paths: Paths, record: Record) -> Path:
    """Where it is written down that the volume is staged."""
    if record.block:
        return paths.plugins / NAME / "volumeDevices" / record.volume / "data"
    return staging_path(paths, record).parent


def staged_records(paths: Paths) -> Iterator[Record]:
    """What is staged, or may be. Reads files."""
    for file in sorted((paths.plugins / NAME).glob(f"*/*/{FILE}")) + sorted(
        (paths.plugins / NAME / "volumeDevices").glob(f"*/data/{FILE}")
    ):
        record = Record.load(file.parent)
        if record is not None:
            yield record


def target_path(paths: Paths, record: Record, directory: Path) -> Path:
    """Where the volume is published for the pod whose volume directory this is."""
    if record.block:
        return paths.plugins / NAME / "volumeDevices" / "publish" / record.volume / pod_of(directory)
    return directory / "mount"


def pod_of(directory: Path) -> str:
    """The uid of the pod whose volume directory this is: `<uid>/volumes/kubernetes.io~csi/<volume>`."""
    return directory.parents[2].name


def records(paths: Paths) -> Iterator[tuple[Path, Record]]:
    """Every volume directory with a record, and the record. Reads files."""
    for file in sorted(paths.pods.glob(f"*/volumes/{NAME.replace('/', '~')}/*/{FILE}")):
        record = Record.load(file.parent)
        if record is not None:
            yield file.parent, record
