"""What the runtime knows of sandboxes and containers, on disk before it is acted upon.

One JSON file a record, replaced by rename, so that a reader (this runtime, started again) finds the old or the new
one. Nothing is synced to the platter: a machine that loses power has lost its containers too.

    sandbox:    creating ──► ready ──► notready ──► (removed)
    container:  creating ──► created ──► starting ──► running ──► exited ──► (removed)
                                             └───── start failed ──┘
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec

from tiphys.base.log import get_logger

log = get_logger(__name__)

SandboxState = Literal["creating", "ready", "notready"]
ContainerState = Literal["creating", "created", "starting", "running", "exited"]


class SandboxRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A pod sandbox. `config` is the serialized PodSandboxConfig."""

    id: str
    config: bytes
    created_at: int  # nanoseconds since the epoch
    state: SandboxState
    runtime_handler: str = ""
    ips: tuple[str, ...] = ()
    netns: str = ""  # path of the pinned namespace; "" is the node's network
    pause: str = ""  # container id of the pause process, where a PID namespace is shared


class ContainerRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A container. `config` is the serialized ContainerConfig, `resources` the LinuxContainerResources in force."""

    id: str
    sandbox_id: str
    config: bytes
    resources: bytes
    created_at: int
    state: ContainerState
    image_id: str = ""
    image_ref: str = ""
    layers: tuple[str, ...] = ()
    log_path: str = ""
    stop_signal: str = "SIGTERM"
    cgroup: str = ""
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    infra: bool = False  # the sandbox's own pause process, which CRI does not show
    pid: int = 0
    pid_started: int = 0  # start time in clock ticks since boot: tells a reused pid
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""


R = TypeVar("R", SandboxRecord, ContainerRecord)


def new_id() -> str:
    """64 hexadecimal digits, as container ids are everywhere."""
    return secrets.token_hex(32)


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace the file at `path`; whoever reads it sees all of the old or all of the new content."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class Records(Generic[R]):
    """The records of one kind: `<directory>/<id>/state.json`."""

    def __init__(self, directory: Path, kind: type[R]) -> None:
        self._directory = directory
        self._encoder = msgspec.json.Encoder()
        self._decoder: msgspec.json.Decoder[R] = msgspec.json.Decoder(kind)

    def save(self, record: R) -> None:
        """Write the record; its directory is made where needed."""
        directory = self._directory / record.id
        data = self._encoder.encode(record)
        try:
            write_atomically(directory / "state.json", data)
        except FileNotFoundError:
            directory.mkdir(parents=True, mode=0o711)
            write_atomically(directory / "state.json", data)

    def remove(self, record_id: str) -> None:
        """Forget the record, first its file and then everything kept beside it."""
        directory = self._directory / record_id
        (directory / "state.json").unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)

    def load(self) -> tuple[list[R], list[str]]:
        """All readable records, and the ids of directories without one: what a crash left half made."""
        self._directory.mkdir(parents=True, exist_ok=True)
        records: list[R] = []
        broken: list[str] = []
        for directory in sorted(self._directory.iterdir()):
            try:
                records.append(self._decoder.decode((directory / "state.json").read_bytes()))
            except (OSError, msgspec.MsgspecError) as error:
                log.warning("%s is taken away: its record cannot be read: %s", directory, error)
                broken.append(directory.name)
        return records, broken
