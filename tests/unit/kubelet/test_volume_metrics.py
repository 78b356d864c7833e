"""Volumes that are wanted and there, and what was done with them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import msgspec
import pytest

from tests.unit.kubelet.builders import make_pod
from tests.unit.kubelet.exposed import Moved, samples
from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim, Volume
from tiphys.client import Client, EventRecorder
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.pod import PodUID
from tiphys.kubelet.volumes.claim import ClaimPlugin
from tiphys.kubelet.volumes.empty_dir import EmptyDirPlugin
from tiphys.kubelet.volumes.host_path import HostPathPlugin
from tiphys.kubelet.volumes.local import LocalSource
from tiphys.kubelet.volumes.manager import MountError, VolumeManager
from tiphys.kubelet.volumes.metrics import volume_plugin
from tiphys.kubelet.volumes.plugin import Mounted, VolumeContext

LOCAL = "kubernetes.io/local-volume"


class Cluster:
    """A claim `bound` to a local volume at `path`, and one that is not bound."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def get(self, kind: type[Any], key: Any) -> Any:
        if kind is PersistentVolume:
            return msgspec.convert({"metadata": {"name": "v"}, "spec": {"local": {"path": str(self.path)}}}, kind)
        status, spec = ({"phase": "Bound"}, {"volumeName": "v"}) if key.name == "bound" else ({"phase": "Pending"}, {})
        return msgspec.convert({"metadata": {"name": key.name}, "spec": spec, "status": status}, PersistentVolumeClaim)


def manager(tmp_path: Path, disk: Path) -> VolumeManager:
    paths = Paths(tmp_path / "kubelet", tmp_path / "logs")
    source = LocalSource(paths)
    client, recorder = cast("Client", Cluster(disk)), cast("EventRecorder", SimpleNamespace())
    claims = ClaimPlugin(client, recorder, "node-1", [source])
    return VolumeManager([EmptyDirPlugin(), HostPathPlugin(), claims], paths, [source])


def claim(name: str) -> dict[str, Any]:
    return {"name": name, "persistentVolumeClaim": {"claimName": name}}


def total(plugin: str, state: str) -> float | None:
    return samples().get(f'volume_manager_total_volumes{{plugin_name="{plugin}",state="{state}_state_of_world"}}')


def operation(name: str, plugin: str, status: str = "success") -> str:
    labels = f'migrated="false",operation_name="{name}",status="{status}",volume_plugin="{plugin}"'
    return f"storage_operation_duration_seconds_count{{{labels}}}"


async def test_volumes_are_counted_by_plugin_while_they_are_there(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    volumes = manager(tmp_path, disk)
    remove = volumes.expose()
    moved = Moved()
    pod = make_pod(volumes=[{"name": "scratch", "emptyDir": {}}, claim("bound")])
    settings: dict[str, Any] = {"host_ips": (), "allocatable": {}}
    with pytest.raises(MountError):  # the disk is not there
        await volumes.set_up(pod, **settings)
    assert (total(LOCAL, "desired"), total(LOCAL, "actual")) == (1, None)
    assert moved.by(operation("volume_mount", LOCAL, "fail-unknown")) == 1
    disk.mkdir()
    await volumes.set_up(pod, **settings)
    assert (total(LOCAL, "desired"), total(LOCAL, "actual")) == (1, 1)
    assert total("kubernetes.io/empty-dir", "actual") == 1
    assert moved.by(operation("volume_mount", LOCAL)) == 1
    assert moved.by(operation("volume_mount", "kubernetes.io/empty-dir")) == 2
    await volumes.tear_down(PodUID("u1"))
    assert total("kubernetes.io/empty-dir", "desired") is None
    assert moved.by(operation("volume_unmount", "kubernetes.io/empty-dir")) == 1
    remove()


class Driver:
    """Makes CSI volumes of one of the two kinds, which have one name."""

    name: ClassVar[str] = "kubernetes.io/csi"

    def __init__(self) -> None:
        self.torn_down = 0

    def handles(self, volume: Volume) -> bool:
        return volume.csi is not None

    async def set_up(self, context: VolumeContext) -> Mounted:
        target = context.directory / "mount"
        target.mkdir(parents=True)
        return Mounted(path=target)

    async def tear_down(self, directory: Path) -> None:
        self.torn_down += 1  # what is left of the directory goes with the pod's


async def test_a_csi_volume_is_unmounted_once_and_counted_for_its_driver(tmp_path: Path) -> None:
    inline, persistent = Driver(), Driver()
    volumes = VolumeManager([inline], Paths(tmp_path, tmp_path / "logs"), [persistent])
    moved = Moved()
    pod = make_pod(volumes=[{"name": "v", "csi": {"driver": "disks.example.com"}}])
    await volumes.set_up(pod, host_ips=(), allocatable={})
    await volumes.tear_down(PodUID("u1"))
    assert inline.torn_down + persistent.torn_down == 1
    assert moved.by(operation("volume_mount", "kubernetes.io/csi:disks.example.com")) == 1
    assert moved.by(operation("volume_unmount", "kubernetes.io/csi:disks.example.com")) == 1


async def test_a_claim_that_leads_nowhere_is_no_plugins(tmp_path: Path) -> None:
    volumes = manager(tmp_path, tmp_path)
    remove = volumes.expose()
    with pytest.raises(MountError):
        await volumes.set_up(make_pod(volumes=[claim("unbound")]), host_ips=(), allocatable={})
    assert not [name for name in samples() if name.startswith("volume_manager_total_volumes")]
    assert not [name for name in samples() if "persistent-claim" in name]
    remove()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"csi": {"driver": "disks.example.com", "volumeHandle": "1"}}, "kubernetes.io/x:disks.example.com"),
        ({"hostPath": {"path": "/data"}}, "kubernetes.io/host-path"),
        ({"local": {"path": "/data"}}, "kubernetes.io/x"),
    ],
    ids=["csi", "hostPath", "local"],
)
def test_the_plugin_of_a_persistent_volume(source: dict[str, Any], name: str) -> None:
    volume = msgspec.convert({"metadata": {"name": "v"}, "spec": source}, PersistentVolume)
    assert volume_plugin("kubernetes.io/x", volume) == name
