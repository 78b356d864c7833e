"""What a container holds in the kernel and on disk, and how that is freed; at a start of the runtime too.

Everything here blocks and is called from worker threads.
"""

from __future__ import annotations

import contextlib
import shutil

import msgspec

from tiphys.base.log import get_logger
from tiphys.runtime import filesystems, linux, monitors, process
from tiphys.runtime.container import Container
from tiphys.runtime.endings import read_exit_file
from tiphys.runtime.node import Node
from tiphys.runtime.oci import OCIError
from tiphys.runtime.state import ContainerRecord, Records

log = get_logger(__name__)

# How long a monitor may take for what it was about when the runtime that started it was killed.
MONITOR_WAIT = 30.0


def clean_up(node: Node, container: Container) -> None:
    """Free what an ended container holds in the kernel: processes, control groups, mounts, its monitor."""
    record, bundle = container.record, node.options.bundle(container.id)
    node.oci(container.handler).delete(record.id)
    if node.cgroups.processes(record.cgroup):
        node.cgroups.kill(record.cgroup)
    node.cgroups.remove(record.cgroup)
    linux.unmount(bundle / "rootfs")
    filesystems.remove_mounts(node.options.mounts(container.id))
    with contextlib.suppress(OSError, ValueError):
        # conmon is our child if it was started by this process, and ends when the container has.
        node.children.reap_within(int((bundle / "conmon.pid").read_text()), 2.0)


def discard(node: Node, records: Records[ContainerRecord], record: ContainerRecord) -> None:
    """Everything of the container on disk, from a complete one to one that was hardly begun."""
    options = node.options
    bundle = options.bundle(record.id)
    linux.unmount(bundle / "rootfs")
    for place in (options.mounts(record.id), bundle / "layers"):
        filesystems.remove_mounts(place)
    for image_volume in (options.container_root(record.id) / "images").glob("*"):
        linux.unmount(image_volume)
    (options.exits / record.id).unlink(missing_ok=True)
    records.remove(record.id)
    shutil.rmtree(bundle, ignore_errors=True)
    node.images.release(options.node, record.id)
    if record.image_id and node.images.find(record.image_id) is None:
        node.images.collect()


def finish_start(node: Node, container: Container) -> int:
    """The pid of the container's process once it has been started; 0 when it never was, and nothing of it is left.

    Blocks.
    """
    runtime, bundle = node.oci(container.handler), node.options.bundle(container.id)
    # The monitor goes on creating the container when nobody listens any more.
    monitors.wait_for_pid(container.id, bundle / "pid", MONITOR_WAIT)
    try:
        pid = int((bundle / "pid").read_text())
    except (OSError, ValueError):
        pid = 0
    alive = pid and (process.start_time(pid) or read_exit_file(node, container.id) is not None)
    if alive and runtime.is_created(container.id):
        try:
            if not monitors.find(container.id):
                raise OCIError("it has lost its monitor")
            runtime.start(container.id)
        except (OCIError, OSError) as error:
            log.warning("container %s was created and does not start: %s", container.id, error)
            alive = 0
    if alive:
        return pid
    monitors.kill(container.id)
    runtime.delete(container.id)
    node.cgroups.kill(container.record.cgroup)
    node.cgroups.remove(container.record.cgroup)
    for left in (bundle / "pid", bundle / "conmon.pid", node.options.exits / container.id):
        left.unlink(missing_ok=True)
    return 0


def sweep_away(node: Node, records: Records[ContainerRecord], container_id: str, cgroup: str = "") -> None:
    """A container without a usable record: whatever it left behind."""
    bundle = node.options.bundle(container_id)
    monitors.kill(container_id)
    if not cgroup:
        with contextlib.suppress(OSError, msgspec.MsgspecError, KeyError, TypeError):
            cgroup = msgspec.json.decode((bundle / "config.json").read_bytes())["linux"]["cgroupsPath"]
    node.oci("").delete(container_id)
    if cgroup:
        node.cgroups.kill(cgroup)
        node.cgroups.remove(cgroup)
    nothing = ContainerRecord(id=container_id, sandbox_id="", config=b"", resources=b"", created_at=0, state="creating")
    discard(node, records, nothing)
