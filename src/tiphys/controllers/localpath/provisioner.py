"""Makes a volume of a node's directory for each claim of its class, and removes it when it is released.

    claim with selected-node ─→ helper makes the directory ─→ PersistentVolume, bound to the claim
    volume Released, or being deleted ─→ helper removes the directory ─→ volume deleted

Everything about one volume has one key, the volume's name, which follows from the claim's uid.
The helper pods are the memory of work begun: one whose claim has vanished meanwhile is answered by
one that removes what it made. Modelled on what k3s and kind bring along, rancher's
local-path-provisioner: https://github.com/rancher/local-path-provisioner
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import Node, PersistentVolume, PersistentVolumeClaim, Pod
from tiphys.api.storage.v1 import StorageClass
from tiphys.client import DONE, NORMAL, WARNING, Controller, Preconditions, RequeueAfter, Result, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.latest import Latest
from tiphys.controllers.localpath import volumes
from tiphys.controllers.localpath.helper import CLAIM as HELPED_CLAIM
from tiphys.controllers.localpath.helper import NAMESPACE, VOLUME, Action, helper, helper_name, message_of
from tiphys.controllers.localpath.volumes import FINALIZER, PROVISIONER
from tiphys.controllers.persistentvolume.claims import PROVISIONED_BY, SELECTED_NODE, class_of
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError
from tiphys.machinery.meta import ObjectName

BY_UID: Final = "uid"
RETRY: Final = RequeueAfter(timedelta(seconds=5))


class LocalPathProvisioner(Controller[str]):
    """The controller `local-path-provisioner`; its keys are names of volumes."""

    name = "local_path_provisioner"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("local-path-provisioner")
        self._image = context.options.local_path_helper_image
        self._directory = context.options.local_path_directory
        self._claims = context.informers.of(PersistentVolumeClaim)
        self._classes = context.informers.of(StorageClass)
        self._nodes = context.informers.of(Node)
        self._helpers = context.informers.of(Pod, namespace=NAMESPACE, label_selector=VOLUME)
        cache = context.informers.of(PersistentVolume)
        super().__init__(context.clock, (self._claims, self._classes, self._nodes, self._helpers, cache))
        self._volumes = Latest(cache)
        self._claims.add_index(BY_UID, lambda claim: [claim.metadata.uid])
        self._claims.add_handler(self._claim_changed, lambda _, new: self._claim_changed(new), self._claim_changed)
        cache.add_handler(self._volume_changed, lambda _, new: self._volume_changed(new), self._volume_changed)
        self._helpers.add_handler(self._helped, lambda _, new: self._helped(new), self._helped)

    def _claim_changed(self, claim: PersistentVolumeClaim) -> None:
        self.queue.add(volumes.volume_name(claim))

    def _volume_changed(self, volume: PersistentVolume) -> None:
        if volume.metadata.annotations.get(PROVISIONED_BY) == PROVISIONER:
            self.queue.add(volume.metadata.name)

    def _helped(self, pod: Pod) -> None:
        self.queue.add(pod.metadata.labels.get(VOLUME, ""))

    async def sync(self, key: str) -> Result:
        """Take one volume a step further towards being there, or being gone."""
        volume = self._volumes.get(ObjectName("", key))
        if volume is not None:
            return await self._sync_volume(volume)
        found = self._claims.lister.by_index(BY_UID, key.removeprefix("pvc-"))
        if found and volumes.wants_volume(found[0]):
            return await self._provision(found[0])
        return await self._clean_up_after(key)

    # Making

    async def _provision(self, claim: PersistentVolumeClaim) -> Result:
        problem = volumes.refusal(claim)
        storage_class = self._classes.lister.get(ObjectName("", class_of(claim)))
        if problem or storage_class is None:
            problem = problem or f'storageclass.storage.k8s.io "{class_of(claim)}" not found'
            self._fail(claim, problem)
            return DONE
        node = self._nodes.lister.get(ObjectName("", claim.metadata.annotations[SELECTED_NODE]))
        if node is None:
            return await self._choose_again(claim)
        name = volumes.volume_name(claim)
        path = f"{self._directory.replace('{node}', node.metadata.name)}/{volumes.directory_name(claim)}"
        pod = self._helper(Action.CREATE, name)
        if pod is None:
            text = f'External provisioner is provisioning volume for claim "{key_of(claim)}"'
            self._recorder.event(claim, NORMAL, "Provisioning", text)
            await self._start(Action.CREATE, name, str(key_of(claim)), node.metadata.name, path)
            return DONE
        if pod.spec.node_name != node.metadata.name or pod.metadata.deletion_timestamp is not None:
            # Begun for another node, or failed before: away with it, then begin anew.
            await self._delete(pod)
            return RETRY
        if pod.status.phase == "Failed":
            self._fail(claim, message_of(pod))
            await self._delete(pod)
            return RETRY
        if pod.status.phase == "Succeeded":
            hostname = node.metadata.labels.get(volumes.HOSTNAME, node.metadata.name)
            made = volumes.volume_of(claim, storage_class, node=node.metadata.name, hostname=hostname, path=path)
            with suppress(AlreadyExistsError):
                self._volumes.note(await self._client.create(made))
            self._recorder.event(claim, NORMAL, "ProvisioningSucceeded", f"Successfully provisioned volume {name}")
            await self._delete(pod)
        return DONE

    def _fail(self, claim: PersistentVolumeClaim, problem: str) -> None:
        text = f'failed to provision volume with StorageClass "{class_of(claim)}": {problem}'
        self._recorder.event(claim, WARNING, "ProvisioningFailed", text)

    async def _choose_again(self, claim: PersistentVolumeClaim) -> Result:
        """The chosen node is gone: without the annotation the scheduler chooses another."""
        self._fail(claim, f'node "{claim.metadata.annotations[SELECTED_NODE]}" not found')
        annotations = {name: value for name, value in claim.metadata.annotations.items() if name != SELECTED_NODE}
        await self._client.update(replace(claim, metadata=replace(claim.metadata, annotations=annotations)))
        return DONE

    # Removing

    async def _sync_volume(self, volume: PersistentVolume) -> Result:
        if volume.metadata.annotations.get(PROVISIONED_BY) != PROVISIONER:
            return DONE
        ended = self._helper(Action.CREATE, volume.metadata.name)
        if ended is not None:
            await self._delete(ended)
        deleted = volume.metadata.deletion_timestamp is not None
        if volume.status.phase == "Bound" or (deleted and len(volume.metadata.finalizers) > 1):
            return DONE
        if volume.spec.persistent_volume_reclaim_policy != "Delete":
            if deleted:
                await self._let_go(volume)
            return DONE
        if (deleted or volume.status.phase == "Released") and await self._removed(volume):
            await self._let_go(volume)
        return DONE

    async def _removed(self, volume: PersistentVolume) -> bool:
        """Whether the directory is gone; starts the helper that removes it."""
        node, path = volume.metadata.annotations.get(volumes.NODE, ""), volumes.path_of(volume)
        if not path or self._nodes.lister.get(ObjectName("", node)) is None:
            text = f'node "{node}" is gone: the directory {path} was not removed'
            self._recorder.event(volume, WARNING, "VolumeFailedDelete", text)
            return True
        pod = self._helper(Action.DELETE, volume.metadata.name)
        if pod is None:
            reference = volume.spec.claim_ref
            claim = f"{reference.namespace}/{reference.name}" if reference is not None else ""
            await self._start(Action.DELETE, volume.metadata.name, claim, node, path)
        elif pod.status.phase == "Failed":
            self._recorder.event(volume, WARNING, "VolumeFailedDelete", message_of(pod))
            await self._delete(pod)
            self.queue.add_after(volume.metadata.name, 5.0)
        return pod is not None and pod.status.phase == "Succeeded"

    async def _let_go(self, volume: PersistentVolume) -> None:
        """Delete the volume and take the finalizer off; what the helper left behind goes with the next sync."""
        if volume.metadata.deletion_timestamp is None:
            with suppress(NotFoundError):
                only_if = Preconditions(uid=volume.metadata.uid)
                await self._client.delete(PersistentVolume, key_of(volume), only_if=only_if)
            with suppress(NotFoundError):
                volume = await self._client.get(PersistentVolume, key_of(volume))
        kept = tuple(name for name in volume.metadata.finalizers if name != FINALIZER)
        if volume.metadata.deletion_timestamp is not None and kept != volume.metadata.finalizers:
            with suppress(NotFoundError):
                metadata = replace(volume.metadata, finalizers=kept)
                await self._client.update(replace(volume, metadata=metadata))

    async def _clean_up_after(self, name: str) -> Result:
        """No volume and nobody who wants one: directories made for nothing go, then the helpers themselves."""
        made, removed = self._helper(Action.CREATE, name), self._helper(Action.DELETE, name)
        if made is None:
            if removed is not None and not await self._volume_exists(name):
                await self._delete(removed)
            return DONE
        if await self._volume_exists(name) or await self._claim_exists(made):
            return RETRY
        gone = self._nodes.lister.get(ObjectName("", made.spec.node_name)) is None
        if gone or (removed is not None and removed.status.phase == "Succeeded"):
            await self._delete(made)
        elif removed is None and made.status.phase in ("Succeeded", "Failed"):
            claim = made.metadata.annotations.get(HELPED_CLAIM, "")
            directory = made.spec.containers[0].command[-1].rpartition("/")[2]
            path = f"{self._directory.replace('{node}', made.spec.node_name)}/{directory}"
            await self._start(Action.DELETE, name, claim, made.spec.node_name, path)
        elif removed is not None and removed.status.phase == "Failed":
            await self._delete(removed)
            return RETRY
        return DONE

    async def _volume_exists(self, name: str) -> bool:
        try:
            await self._client.get(PersistentVolume, ObjectName("", name))
        except NotFoundError:
            return False
        return True

    async def _claim_exists(self, helper_pod: Pod) -> bool:
        """Whether the claim a helper worked for is there after all: the cache may be behind."""
        namespace, _, name = helper_pod.metadata.annotations.get(HELPED_CLAIM, "").partition("/")
        try:
            claim = await self._client.get(PersistentVolumeClaim, ObjectName(namespace, name))
        except NotFoundError:
            return False
        return volumes.volume_name(claim) == helper_pod.metadata.labels.get(VOLUME)

    # Helpers

    def _helper(self, action: Action, volume: str) -> Pod | None:
        return self._helpers.lister.get(ObjectName(NAMESPACE, helper_name(action, volume)))

    async def _start(self, action: Action, volume: str, claim: str, node: str, path: str) -> None:
        pod = helper(action, volume=volume, claim=claim, node=node, path=path, image=self._image)
        with suppress(AlreadyExistsError):
            await self._client.create(pod)

    async def _delete(self, pod: Pod) -> None:
        if pod.metadata.deletion_timestamp is None:
            with suppress(NotFoundError):
                await self._client.delete(Pod, key_of(pod), only_if=Preconditions(uid=pod.metadata.uid))
