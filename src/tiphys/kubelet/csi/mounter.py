"""Mounts a CSI volume for a pod and takes it away again.

```
 wait until attached ─► NodeStageVolume (first pod of the node) ─► NodePublishVolume ─► fsGroup
                        NodeUnstageVolume (after the last pod)  ◄─ NodeUnpublishVolume
```
The record on the disk is written before each call, so that whatever a crash, a cancelled start or an
uncertain answer leaves behind is undone: drivers take a call twice, or for what never was. A call that
failed for good is taken back from the record. One thing at a time is done to a volume.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tiphys.api.core.v1 import Secret, SecretReference
from tiphys.api.csi import csi_pb2 as csi
from tiphys.api.storage.v1 import CSIDriver, CSIDriverSpec
from tiphys.client import Client, SharedInformer
from tiphys.kubelet.csi.attach import Attachments, attachment_name
from tiphys.kubelet.csi.client import CSIError
from tiphys.kubelet.csi.drivers import Driver, Drivers
from tiphys.kubelet.csi.record import FILE, PERSISTENT, Progress, Record, pod_of, records, staging_path, target_path
from tiphys.kubelet.csi.request import (
    TOKENS,
    MountRequest,
    capability,
    check_lifecycle,
    needs_attachment,
    owns_files,
    pod_info,
    usage_of,
)
from tiphys.kubelet.csi.staging import Staging, remove_target, stages
from tiphys.kubelet.mounts import is_mount
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.volumes.expansion import LOOK_EVERY
from tiphys.kubelet.volumes.ownership import apply_fs_group
from tiphys.kubelet.volumes.plugin import InfeasibleError, Mounted, Usage, VolumeError
from tiphys.kubelet.volumes.token import DEFAULT_SECONDS, TokenManager
from tiphys.machinery.errors import StatusError
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.time import format_time

_RPC = csi.NodeServiceCapability.RPC
REPUBLISH_EVERY: Final = 60.0  # seconds, where the CSIDriver has requiresRepublish


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the mounter works with."""

    client: Client
    drivers: Drivers
    driver_objects: SharedInformer[CSIDriver]
    attachments: Attachments
    staging: Staging
    tokens: TokenManager
    paths: Paths
    node_name: str


class Mounter:
    """The CSI volumes of the node."""

    def __init__(self, tools: Tools) -> None:
        self._t = tools
        self._published: set[Path] = set()

    async def recover(self) -> None:
        """Hold what an earlier kubelet mounted, before anybody is told that nothing is in use."""
        for directory, record in await asyncio.to_thread(lambda: list(records(self._t.paths))):
            if record.attachment:
                self._t.attachments.hold(record.driver, record.handle, pod_of(directory))
        await self._t.staging.recover()

    # -- up ------------------------------------------------------------------------------------------

    async def mount(self, request: MountRequest, directory: Path) -> Mounted:
        """Mount the volume for the pod whose volume directory this is, or bring it up to date. Raises VolumeError."""
        driver = self._t.drivers.get(request.driver)
        spec = await self._spec(request.driver)
        check_lifecycle(request, spec)
        attached = needs_attachment(request, spec)
        record = Record(
            driver=request.driver,
            handle=request.handle,
            volume=request.volume,
            lifecycle=request.lifecycle,
            attachment=attachment_name(request.driver, request.handle, self._t.node_name) if attached else "",
            block=request.block,
        )
        target = target_path(self._t.paths, record, directory)
        republish = spec is not None and bool(spec.requires_republish)
        if await self._is_published(target, directory) and not republish:
            return self._mounted(target, request, driver, spec)
        context: Mapping[str, str] = {}
        if attached:
            found = await self._wait_for_attachment(request, record, directory)
            if found is None:
                return await self.mount(request, directory)  # the driver has changed its mind meanwhile
            context = found
        async with self._t.staging.lock(record):
            if stages(driver, record) and not self._t.staging.is_staged(record):
                await self._stage(driver, request, record, directory, context)
            await self._publish(driver, request, record, directory, context, spec)
            if owns_files(request, driver, spec):
                await asyncio.to_thread(apply_fs_group, request.pod, target)
            self._published.add(target)
        return self._mounted(target, request, driver, spec)

    def _mounted(self, target: Path, request: MountRequest, driver: Driver, spec: CSIDriverSpec | None) -> Mounted:
        due = []
        if spec is not None and spec.requires_republish:
            due.append(REPUBLISH_EVERY)
        if request.access_modes and driver.has(_RPC.EXPAND_VOLUME):
            due.append(LOOK_EVERY)
        return Mounted(
            path=target, read_only=request.read_only, device=request.block, refresh_after=min(due) if due else None
        )

    async def _is_published(self, target: Path, directory: Path) -> bool:
        """Whether this kubelet has published it, or one before it did and the mount is still there."""
        if target in self._published:
            return True
        known = await asyncio.to_thread(Record.load, directory)
        if known is None or known.progress != Progress.PUBLISHING or not await asyncio.to_thread(is_mount, target):
            return False
        self._published.add(target)
        return True

    async def _wait_for_attachment(
        self, request: MountRequest, record: Record, directory: Path
    ) -> Mapping[str, str] | None:
        """What the attachment says, once it is there; None when the driver does without after all."""
        if not await asyncio.to_thread(Record.load, directory):
            await asyncio.to_thread(record.save, directory)
        attachments, uid = self._t.attachments, request.pod.metadata.uid
        attachments.hold(record.driver, record.handle, uid)

        def still_wanted() -> bool:
            return needs_attachment(request, self._known_spec(record.driver))

        found = await attachments.wait(record.driver, record.handle, record.attachment, still_wanted)
        if found is None:
            attachments.release(record.driver, record.handle, uid)
        return found

    async def _stage(
        self, driver: Driver, request: MountRequest, record: Record, directory: Path, context: Mapping[str, str]
    ) -> None:
        staging = staging_path(self._t.paths, record)
        call = csi.NodeStageVolumeRequest(
            volume_id=request.handle,
            publish_context=context,
            staging_target_path=str(staging),
            volume_capability=capability(request, driver),
            secrets=await self._secret(request.stage_secret),
            volume_context=request.attributes,
        )
        await asyncio.to_thread(replace(record, progress=Progress.STAGING).save, directory)
        try:
            await self._t.staging.stage(driver, record, call)
        except CSIError as error:
            if error.final:
                await asyncio.to_thread(record.save, directory)
            raise

    async def _publish(
        self,
        driver: Driver,
        request: MountRequest,
        record: Record,
        directory: Path,
        context: Mapping[str, str],
        spec: CSIDriverSpec | None,
    ) -> None:
        target = target_path(self._t.paths, record, directory)
        staged = stages(driver, record)
        call = csi.NodePublishVolumeRequest(
            volume_id=request.handle,
            publish_context=context,
            staging_target_path=str(staging_path(self._t.paths, record)) if staged else "",
            target_path=str(target),
            volume_capability=capability(request, driver),
            readonly=request.read_only,
            secrets=await self._secret(request.publish_secret),
            volume_context=request.attributes,
        )
        if spec is not None and spec.pod_info_on_mount:
            call.volume_context.update(pod_info(request))
        if spec is not None and spec.token_requests:
            place = call.secrets if spec.service_account_token_in_secrets else call.volume_context
            place[TOKENS] = await self._tokens(request, spec)
        await asyncio.to_thread(target.parent.mkdir, 0o750, parents=True, exist_ok=True)
        await asyncio.to_thread(replace(record, progress=Progress.PUBLISHING).save, directory)
        try:
            await driver.client.publish(call)
        except CSIError as error:
            if error.final and target not in self._published:
                before = Progress.STAGING if staged else Progress.ATTACHING
                await asyncio.to_thread(replace(record, progress=before).save, directory)
            raise

    async def _tokens(self, request: MountRequest, spec: CSIDriverSpec) -> str:
        """The pod's tokens by audience. https://kubernetes-csi.github.io/docs/token-requests.html"""
        found = {}
        for one in spec.token_requests:
            seconds = one.expiration_seconds or DEFAULT_SECONDS
            token = await self._t.tokens.token(request.pod, one.audience, seconds)
            found[one.audience] = {"token": token.value, "expirationTimestamp": format_time(token.expires)}
        return json.dumps(found, separators=(",", ":"))

    async def usage(self, directory: Path) -> Usage | None:
        """What the volume of this directory holds; None when its driver does not measure. Raises VolumeError."""
        record = await asyncio.to_thread(Record.load, directory)
        if record is None:
            return None
        driver = self._t.drivers.get(record.driver)
        if not driver.has(_RPC.GET_VOLUME_STATS):
            return None
        call = csi.NodeGetVolumeStatsRequest(
            volume_id=record.handle,
            volume_path=str(target_path(self._t.paths, record, directory)),
            staging_target_path=str(staging_path(self._t.paths, record)) if stages(driver, record) else "",
        )
        return usage_of(await driver.client.stats(call))

    # -- growth --------------------------------------------------------------------------------------

    async def expand(self, request: MountRequest, directory: Path, size: int, secret: SecretReference | None) -> bool:
        """Let a mounted volume grow to `size` bytes; False when its driver does nothing on nodes for that."""
        driver = self._t.drivers.get(request.driver)
        if not driver.has(_RPC.EXPAND_VOLUME):
            return False
        record = Record(driver=request.driver, handle=request.handle, volume=request.volume, block=request.block)
        staged = stages(driver, record)
        call = csi.NodeExpandVolumeRequest(
            volume_id=request.handle,
            volume_path=str(target_path(self._t.paths, record, directory)),
            capacity_range=csi.CapacityRange(required_bytes=size),
            staging_target_path=str(staging_path(self._t.paths, record)) if staged else "",
            volume_capability=capability(request, driver),
            secrets=await self._secret(secret),
        )
        async with self._t.staging.lock(record):
            try:
                await driver.client.expand(call)
            except CSIError as error:
                raise InfeasibleError(str(error)) if error.infeasible else error from error
        return True

    # -- down ----------------------------------------------------------------------------------------

    async def unmount(self, directory: Path) -> None:
        """Undo what was done for one pod. Raises OSError when it has to be tried again."""
        record = await asyncio.to_thread(Record.load, directory)
        if record is None:
            return
        async with self._t.staging.lock(record):
            try:
                await self._undo(record, directory)
            except VolumeError as error:
                raise OSError(f'Unmounter.TearDownAt failed for volume "{record.volume}" : {error}') from error
            await asyncio.to_thread((directory / FILE).unlink, missing_ok=True)
        if record.lifecycle == PERSISTENT and record.progress != Progress.ATTACHING:
            self._t.staging.unstage_soon(record)
        if record.attachment:
            self._t.attachments.release(record.driver, record.handle, pod_of(directory))

    async def _undo(self, record: Record, directory: Path) -> None:
        """Unpublish it, where that may have been done."""
        if record.progress != Progress.PUBLISHING:
            return
        driver = self._t.drivers.get(record.driver)
        target = target_path(self._t.paths, record, directory)
        request = csi.NodeUnpublishVolumeRequest(volume_id=record.handle, target_path=str(target))
        await driver.client.unpublish(request)
        self._published.discard(target)
        await asyncio.to_thread(remove_target, target)
        await asyncio.to_thread(replace(record, progress=Progress.STAGING).save, directory)

    # -- parts ---------------------------------------------------------------------------------------

    async def _spec(self, name: str) -> CSIDriverSpec | None:
        await self._t.driver_objects.synced()
        return self._known_spec(name)

    def _known_spec(self, name: str) -> CSIDriverSpec | None:
        found = self._t.driver_objects.lister.get(ObjectName("", name))
        return found.spec if found is not None else None

    async def _secret(self, reference: SecretReference | None) -> dict[str, str]:
        if reference is None:
            return {}
        try:
            found = await self._t.client.get(Secret, ObjectName(reference.namespace, reference.name))
        except StatusError as error:
            raise VolumeError(
                f"failed to find the secret {reference.name} in the namespace {reference.namespace} with error: {error}"
            ) from error
        return {key: value.decode(errors="surrogateescape") for key, value in found.data.items()}
