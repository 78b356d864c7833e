"""What CSI drivers are told, and what is remembered of their mounts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.kubelet.builders import make_pod
from tiphys.api.csi import csi_pb2 as csi
from tiphys.api.storage.v1 import CSIDriverSpec
from tiphys.base.clock import FakeClock
from tiphys.client import Client
from tiphys.kubelet.csi.attach import Attachments, attachment_name, unique_name
from tiphys.kubelet.csi.client import CSIClient, CSIError
from tiphys.kubelet.csi.drivers import Driver
from tiphys.kubelet.csi.record import EPHEMERAL, Progress, Record, pod_of, records, staging_path, target_path
from tiphys.kubelet.csi.request import MountRequest, capability, check_lifecycle, needs_attachment, owns_files
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.volumes.plugin import VolumeError

RPC = csi.NodeServiceCapability.RPC
MODE = csi.VolumeCapability.AccessMode
GROUP = {"securityContext": {"fsGroup": 2000}}


class NoClient(CSIClient):
    """Is never called."""

    def __init__(self) -> None:
        self.endpoint = ""


def driver(*capabilities: int) -> Driver:
    return Driver(name="d", client=NoClient(), capabilities=frozenset(capabilities))


def request(pod: dict[str, Any] | None = None, **more: Any) -> MountRequest:
    return MountRequest(pod=make_pod(**(pod or {})), driver="d", handle="h", volume="v", **more)


@pytest.mark.parametrize(
    ("modes", "fine", "expected"),
    [
        (("ReadWriteOnce",), False, MODE.SINGLE_NODE_WRITER),
        (("ReadWriteOnce",), True, MODE.SINGLE_NODE_MULTI_WRITER),
        (("ReadWriteOncePod",), False, MODE.SINGLE_NODE_WRITER),
        (("ReadWriteOncePod",), True, MODE.SINGLE_NODE_SINGLE_WRITER),
        (("ReadOnlyMany",), True, MODE.MULTI_NODE_READER_ONLY),
        (("ReadWriteMany", "ReadWriteOnce"), True, MODE.MULTI_NODE_MULTI_WRITER),
        ((), True, MODE.SINGLE_NODE_WRITER),
    ],
)
def test_access_modes(modes: tuple[str, ...], fine: bool, expected: int) -> None:
    known = driver(RPC.SINGLE_NODE_MULTI_WRITER) if fine else driver()
    assert capability(request(access_modes=modes), known).access_mode.mode == expected


def test_a_driver_that_can_is_told_the_group_and_does_the_rest() -> None:
    asked = request(GROUP, fs_type="ext4", access_modes=("ReadWriteOnce",))
    assert capability(asked, driver(RPC.VOLUME_MOUNT_GROUP)).mount.volume_mount_group == "2000"
    assert capability(asked, driver()).mount.volume_mount_group == ""
    assert not owns_files(asked, driver(RPC.VOLUME_MOUNT_GROUP), CSIDriverSpec(fs_group_policy="File"))


@pytest.mark.parametrize(
    ("policy", "more", "expected"),
    [
        pytest.param("File", {}, True, id="always"),
        pytest.param("None", {"fs_type": "ext4", "access_modes": ("ReadWriteOnce",)}, False, id="never"),
        pytest.param(None, {"fs_type": "ext4", "access_modes": ("ReadWriteOnce",)}, True, id="one node, a file system"),
        pytest.param(None, {"fs_type": "ext4", "access_modes": ("ReadWriteMany",)}, False, id="many nodes"),
        pytest.param(None, {"access_modes": ("ReadWriteOnce",)}, False, id="no file system named"),
        pytest.param("File", {"block": True}, False, id="a device"),
        pytest.param("File", {"read_only": True}, False, id="nothing to write"),
    ],
)
def test_whose_files_they_become(policy: str | None, more: dict[str, Any], expected: bool) -> None:
    assert owns_files(request(GROUP, **more), driver(), CSIDriverSpec(fs_group_policy=policy)) is expected
    assert not owns_files(request(**more), driver(), CSIDriverSpec(fs_group_policy=policy))


@pytest.mark.parametrize(
    ("lifecycle", "spec", "error"),
    [
        ("Persistent", None, None),
        ("Persistent", CSIDriverSpec(volume_lifecycle_modes=("Persistent", EPHEMERAL)), None),
        (EPHEMERAL, CSIDriverSpec(volume_lifecycle_modes=(EPHEMERAL,)), None),
        (EPHEMERAL, None, 'volume mode "Ephemeral" not supported by driver d (no CSIDriver object)'),
        (
            "Persistent",
            CSIDriverSpec(volume_lifecycle_modes=(EPHEMERAL,)),
            'volume mode "Persistent" not supported by driver d (only supports ["Ephemeral"])',
        ),
    ],
)
def test_lifecycles(lifecycle: str, spec: CSIDriverSpec | None, error: str | None) -> None:
    asked = request(lifecycle=lifecycle)
    if error is None:
        check_lifecycle(asked, spec)
        return
    with pytest.raises(VolumeError) as caught:
        check_lifecycle(asked, spec)
    assert str(caught.value) == error


def test_what_is_attached() -> None:
    assert needs_attachment(request(), None)
    assert needs_attachment(request(), CSIDriverSpec())
    assert not needs_attachment(request(), CSIDriverSpec(attach_required=False))
    assert not needs_attachment(request(lifecycle=EPHEMERAL), None)
    assert unique_name("d", "h") == "kubernetes.io/csi/d^h"
    # The external-attacher looks for this very name.
    digest = "9072ed11cc1acb5fa433a877ff339b6311d013f33bddd1d0092711a8ace5b16d"
    assert attachment_name("d", "h", "n") == f"csi-{digest}"


def test_records_are_found_again(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path / "logs")
    record = Record(driver="d", handle="h", volume="v", attachment="csi-1", progress=Progress.PUBLISHING)
    directory = paths.volume("uid", "kubernetes.io/csi", "v")
    record.save(directory)
    assert list(records(paths)) == [(directory, record)]
    assert pod_of(directory) == "uid"
    assert staging_path(paths, record).parts[-2:] == (
        "aaa9402664f1a41f40ebbc52c9993eb66aeb366602958fdfaa283b71e64db123",
        "globalmount",
    )
    assert target_path(paths, record, directory) == directory / "mount"
    (directory / "vol_data.json").write_text("{")
    assert Record.load(directory) is None


def test_errors_that_may_have_happened_after_all() -> None:
    assert not CSIError("DeadlineExceeded", "").final
    assert CSIError("Internal", "").final
    assert CSIError("OutOfRange", "").infeasible
    assert str(CSIError("Internal", "broken")) == "rpc error: code = Internal desc = broken"


def test_volumes_are_in_use_while_their_driver_wants_them_attached() -> None:
    reports: list[tuple[str, ...]] = []
    held = Attachments(cast("Client", None), FakeClock(), lambda: None, lambda: reports.append(held.in_use()))
    held.hold("d", "h", "u1")
    held.hold("d", "h", "u2")
    held.hold("other", "h", "u1")
    held.driver_changed("d", wants_attaching=False)
    assert held.in_use() == ("kubernetes.io/csi/other^h",)
    held.driver_changed("d", wants_attaching=True)
    assert held.in_use() == ("kubernetes.io/csi/d^h", "kubernetes.io/csi/other^h")
    held.release("d", "h", "u1")
    assert "kubernetes.io/csi/d^h" in held.in_use()
    held.release("d", "h", "u2")
    assert held.in_use() == ("kubernetes.io/csi/other^h",)
    assert reports[-1] == held.in_use()
