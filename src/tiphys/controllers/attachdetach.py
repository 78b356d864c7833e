"""Attaches volumes to the nodes of the pods that use them, and detaches them after the last.

    pods on n1 using v ─┐
                        ├─→ key (n1, v) ─→ VolumeAttachment ─→ the CSI driver attaches, sets status.attached
    VolumeAttachments ──┘                                   ─→ node's status.volumesAttached

Only CSI volumes whose driver wants it. A volume that nobody needs on a node any more is detached
once its kubelet no longer lists it in volumesInUse; of a node that is gone, tainted out-of-service,
or not ready for six minutes, without waiting. https://kubernetes.io/docs/concepts/storage/volumes/#csi
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple

from msgspec.structs import replace

from tiphys.api.core.v1 import (
    AttachedVolume,
    CSIPersistentVolumeSource,
    Node,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
)
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.storage.v1 import CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec
from tiphys.client import DONE, NORMAL, WARNING, Controller, Preconditions, RequeueAfter, Result, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.volumeprotection import claims_of
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError
from tiphys.machinery.meta import ObjectName

OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"
FORCE_DETACH_AFTER: Final = timedelta(minutes=6)
ATTACH_WITHIN: Final = timedelta(minutes=2)  # then pods are told that nobody attaches
RETRY: Final = RequeueAfter(timedelta(seconds=15))
BY_NODE: Final = "node"
BY_CLAIM: Final = "claim"
BY_PLACE: Final = "place"
SINGLE_NODE: Final = frozenset({"ReadWriteOnce", "ReadWriteOncePod"})


class Place(NamedTuple):
    """One volume on one node."""

    node: str
    volume: str  # name of the PersistentVolume


def attachment_name(source: CSIPersistentVolumeSource, node: str) -> str:
    """The name drivers and kubelets expect."""
    return "csi-" + sha256(f"{source.volume_handle}{source.driver}{node}".encode()).hexdigest()


def unique_name(source: CSIPersistentVolumeSource) -> str:
    """The volume as node statuses name it."""
    return f"kubernetes.io/csi/{source.driver}^{source.volume_handle}"


def needs_volumes(pod: Pod) -> bool:
    """Whether the pod is on a node and may have its volumes mounted."""
    return bool(pod.spec.node_name) and pod.status.phase not in ("Succeeded", "Failed")


def may_force(node: Node | None, now: datetime) -> bool:
    """Whether what the node's kubelet says is no reason to wait."""
    if node is None or any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints):
        return True
    ready = next((one for one in node.status.conditions if one.type == "Ready"), None)
    if ready is None or ready.status == "True" or ready.last_transition_time is None:
        return False
    return now - ready.last_transition_time >= FORCE_DETACH_AFTER


class AttachDetachController(Controller[Place]):
    """The controller `persistentvolume-attach-detach-controller`."""

    name = "attachdetach"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("attachdetach-controller")
        of = context.informers.of
        self._pods, self._nodes = of(Pod), of(Node)
        self._claims, self._volumes = of(PersistentVolumeClaim), of(PersistentVolume)
        self._attachments, self._drivers = of(VolumeAttachment), of(CSIDriver)
        informers = (self._pods, self._nodes, self._claims, self._volumes, self._attachments, self._drivers)
        super().__init__(context.clock, informers)
        self._pods.add_index(BY_NODE, lambda pod: (pod.spec.node_name,))
        self._pods.add_index(BY_CLAIM, lambda pod: [str(name) for name in claims_of(pod)])
        self._attachments.add_index(BY_PLACE, lambda one: (one.spec.source.persistent_volume_name or "",))
        self._pods.add_handler(self._pod_changed, lambda _, new: self._pod_changed(new), self._pod_changed)
        self._claims.add_handler(self._claim_changed, lambda _, new: self._claim_changed(new))
        of_driver = self._driver_changed
        self._drivers.add_handler(of_driver, lambda _, new: of_driver(new), of_driver)
        self._nodes.add_handler(None, self._node_changed, self._node_gone)
        for_attachment = self._attachment_changed
        self._attachments.add_handler(for_attachment, lambda _, new: for_attachment(new), for_attachment)

    # What wakes whom

    def _pod_changed(self, pod: Pod) -> None:
        for place in self._places(pod):
            self.queue.add(place)

    def _places(self, pod: Pod) -> Iterable[Place]:
        if not pod.spec.node_name:
            return
        for name in claims_of(pod):
            claim = self._claims.lister.get(name)
            if claim is not None and claim.spec.volume_name:
                yield Place(pod.spec.node_name, claim.spec.volume_name)

    def _claim_changed(self, claim: PersistentVolumeClaim) -> None:
        for pod in self._pods.lister.by_index(BY_CLAIM, str(key_of(claim))):
            self._pod_changed(pod)

    def _attachment_changed(self, attachment: VolumeAttachment) -> None:
        name = attachment.spec.source.persistent_volume_name
        if name:
            self.queue.add(Place(attachment.spec.node_name, name))

    def _driver_changed(self, driver: CSIDriver) -> None:
        """Its volumes may be attached from now on, or are attached in vain."""
        for attachment in self._attachments.lister.list():
            if attachment.spec.attacher == driver.metadata.name:
                self._attachment_changed(attachment)
        for pod in self._pods.lister.list():  # all of them: drivers change rarely
            self._pod_changed(pod)

    def _node_changed(self, old: Node, new: Node) -> None:
        same = (old.status.volumes_in_use, old.spec.taints) == (new.status.volumes_in_use, new.spec.taints)
        if not same:
            self._node_gone(new)

    def _node_gone(self, node: Node) -> None:
        for attachment in self._attachments.lister.list():
            if attachment.spec.node_name == node.metadata.name:
                self._attachment_changed(attachment)

    # One volume on one node

    async def sync(self, key: Place) -> Result:
        """Attach or detach, and keep the node's list of attached volumes."""
        volume = self._volumes.lister.get(ObjectName("", key.volume))
        if volume is None or volume.spec.csi is None:
            return DONE
        source = volume.spec.csi
        attachment = self._attachments.lister.get(ObjectName("", attachment_name(source, key.node)))
        users = self._users(key) if self._is_attachable(source) else []
        attached = attachment is not None and attachment.status.attached
        if users:
            if attachment is None:
                return await self._attach(key, volume, users)
            await self._list_on_node(key.node, source, attached)
            if attached and attachment.metadata.deletion_timestamp is None:
                self._say_attached(users, volume)
            elif not attached:
                return self._wait(users, volume, attachment)
            return DONE
        if attachment is None:
            await self._list_on_node(key.node, source, False)
            return DONE
        return await self._detach(key, source, attachment)

    def _users(self, key: Place) -> list[Pod]:
        """The pods that want the volume on the node."""
        of_node = self._pods.lister.by_index(BY_NODE, key.node)
        return [pod for pod in of_node if needs_volumes(pod) and key in self._places(pod)]

    def _is_attachable(self, source: CSIPersistentVolumeSource) -> bool:
        driver = self._drivers.lister.get(ObjectName("", source.driver))
        return driver is None or driver.spec.attach_required is not False

    async def _attach(self, key: Place, volume: PersistentVolume, users: list[Pod]) -> Result:
        assert volume.spec.csi is not None
        if set(volume.spec.access_modes) <= SINGLE_NODE:
            others = [
                one.spec.node_name
                for one in self._attachments.lister.by_index(BY_PLACE, key.volume)
                if one.spec.node_name != key.node
            ]
            if others:
                text = (
                    f'Multi-Attach error for volume "{key.volume}" Volume is already exclusively attached to one node '
                    "and can't be attached to another"
                )
                for pod in users:
                    self._recorder.event(pod, WARNING, "FailedAttachVolume", text)
                return RETRY
        made = VolumeAttachment(
            metadata=ObjectMeta(name=attachment_name(volume.spec.csi, key.node)),
            spec=VolumeAttachmentSpec(
                attacher=volume.spec.csi.driver,
                source=VolumeAttachmentSource(persistent_volume_name=key.volume),
                node_name=key.node,
            ),
        )
        with suppress(AlreadyExistsError):
            await self._client.create(made)
        return DONE

    def _say_attached(self, users: list[Pod], volume: PersistentVolume) -> None:
        text = f'AttachVolume.Attach succeeded for volume "{volume.metadata.name}" '
        for pod in users:
            if pod.status.phase in ("", "Pending"):
                self._recorder.event(pod, NORMAL, "SuccessfulAttachVolume", text)

    def _wait(self, users: list[Pod], volume: PersistentVolume, attachment: VolumeAttachment) -> Result:
        """Say why it is not attached yet: what the driver says, or that nobody has answered for long."""
        if attachment.status.attach_error is not None:
            self._say_failed(users, volume, attachment.status.attach_error.message)
            return DONE
        source, made = volume.spec.csi, attachment.metadata.creation_timestamp
        assert source is not None
        left = ATTACH_WITHIN - (self.clock.now() - made) if made is not None else ATTACH_WITHIN
        if left > timedelta(0):
            return RequeueAfter(left)
        text = (
            f"timed out waiting for external-attacher of {source.driver} CSI driver "
            f"to attach volume {source.volume_handle}"
        )
        self._say_failed(users, volume, text)
        return RequeueAfter(ATTACH_WITHIN)

    def _say_failed(self, users: list[Pod], volume: PersistentVolume, message: str) -> None:
        text = f'AttachVolume.Attach failed for volume "{volume.metadata.name}" : {message}'
        for pod in users:
            if pod.status.phase in ("", "Pending"):
                self._recorder.event(pod, WARNING, "FailedAttachVolume", text)

    async def _detach(self, key: Place, source: CSIPersistentVolumeSource, attachment: VolumeAttachment) -> Result:
        node = self._nodes.lister.get(ObjectName("", key.node))
        in_use = node is not None and unique_name(source) in node.status.volumes_in_use
        if in_use and not may_force(node, self.clock.now()):
            return RETRY
        # First off the list: a kubelet must not begin to mount what is about to go.
        await self._list_on_node(key.node, source, False)
        if attachment.metadata.deletion_timestamp is None:
            with suppress(NotFoundError):
                only_if = Preconditions(uid=attachment.metadata.uid)
                await self._client.delete(VolumeAttachment, key_of(attachment), only_if=only_if)
        return DONE

    async def _list_on_node(self, name: str, source: CSIPersistentVolumeSource, attached: bool) -> None:
        node = self._nodes.lister.get(ObjectName("", name))
        if node is None:
            return
        others = tuple(one for one in node.status.volumes_attached if one.name != unique_name(source))
        wanted = others
        if attached:
            device = AttachedVolume(name=unique_name(source), device_path=attachment_name(source, name))
            wanted = (*others, device)
        if len(wanted) != len(node.status.volumes_attached):
            status = replace(node.status, volumes_attached=wanted)
            with suppress(NotFoundError):
                await self._client.update_status(replace(node, status=status))
