"""ImageService of CRI v1 over the image store and the puller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec

from tiphys.api.cri import api_pb2
from tiphys.base.log import get_logger
from tiphys.runtime.errors import InvalidArgument, RuntimeFault, Unreachable
from tiphys.runtime.images.config import ImageConfig
from tiphys.runtime.images.elsewhere import LoopElsewhere
from tiphys.runtime.images.pull import Credentials, Puller
from tiphys.runtime.images.reference import InvalidReference, Reference, parse
from tiphys.runtime.images.store import Image, disk_usage
from tiphys.runtime.node import Node, now

log = get_logger(__name__)

# Counting means walking all layers: the kubelet asks oftener than images change.
USAGE_AGE: Final = 30.0  # seconds


class ImageService:
    """The servicer; `server` registers its methods by name."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._usage: dict[Path, tuple[float, int, int]] = {}
        registry = node.options.registry
        self._elsewhere = LoopElsewhere(registry.netns) if registry.netns else None
        self._puller = Puller(node.images, registry, asyncio.to_thread if registry.netns else node.blocking)

    async def ListImages(self, request: api_pb2.ListImagesRequest, context: Any) -> api_pb2.ListImagesResponse:
        return api_pb2.ListImagesResponse(images=await self._list(request.filter))

    async def StreamImages(
        self, request: api_pb2.StreamImagesRequest, context: Any
    ) -> AsyncIterator[api_pb2.StreamImagesResponse]:
        images = await self._list(request.filter)
        for start in range(0, len(images), 100):
            yield api_pb2.StreamImagesResponse(images=images[start : start + 100])

    async def _list(self, wanted: api_pb2.ImageFilter) -> list[api_pb2.Image]:
        store = self._node.images
        if wanted.image.image:
            found = store.find(wanted.image.image)
            images = [found] if found else []
        else:
            images = sorted(store.images(), key=lambda image: image.tags)
        return [self._message(image) for image in images]

    async def ImageStatus(self, request: api_pb2.ImageStatusRequest, context: Any) -> api_pb2.ImageStatusResponse:
        image = self._node.images.find(request.image.image)
        response = api_pb2.ImageStatusResponse()
        if image is not None:
            response.image.CopyFrom(self._message(image))
            if request.verbose:
                response.info["info"] = msgspec.json.encode({"layers": image.layers}).decode()
        return response

    def _message(self, image: Image) -> api_pb2.Image:
        message = api_pb2.Image(
            id=image.id, repo_tags=image.tags, repo_digests=image.digests, size=max(1, image.size), pinned=image.pinned
        )
        user = self._config(image).user.partition(":")[0]
        if user.isdigit():
            message.uid.value = int(user)
        elif user:
            message.username = user
        else:
            message.uid.value = 0
        return message

    def _config(self, image: Image) -> ImageConfig:
        try:
            return self._node.images.config(image)
        except (OSError, msgspec.MsgspecError):  # removed by another node meanwhile
            return ImageConfig()

    async def PullImage(self, request: api_pb2.PullImageRequest, context: Any) -> api_pb2.PullImageResponse:
        try:
            reference = parse(request.image.image)
        except InvalidReference as error:
            raise InvalidArgument(str(error)) from error
        auth = request.auth
        credentials = Credentials(
            username=auth.username,
            password=auth.password,
            auth=auth.auth,
            identity_token=auth.identity_token,
            registry_token=auth.registry_token,
        )
        try:
            image = await self._pull(reference, credentials)
        except Unreachable as error:
            local = self._made_here(reference)
            if local is None:
                raise
            log.warning("%s; using the image of this name that was made on this machine", error)
            image = local
        return api_pb2.PullImageResponse(image_ref=image.id)

    async def _pull(self, reference: Reference, credentials: Credentials) -> Image:
        if self._elsewhere is None:
            return await self._puller.pull(reference, credentials)
        try:
            return await self._elsewhere.run(lambda: self._puller.pull(reference, credentials))
        except OSError as error:
            raise RuntimeFault(f"the network namespace images are pulled in cannot be entered: {error}") from error

    def _made_here(self, reference: Reference) -> Image | None:
        """The image of this name, if it was assembled, built or imported here: for those there is no registry."""
        found = self._node.images.find(str(reference))
        return found if found is not None and found.pinned else None

    def close(self) -> None:
        """Stop pulling."""
        if self._elsewhere is not None:
            self._elsewhere.close()

    async def RemoveImage(self, request: api_pb2.RemoveImageRequest, context: Any) -> api_pb2.RemoveImageResponse:
        image = self._node.images.find(request.image.image)
        if image is not None:
            await self._node.blocking(self._node.images.remove, image.id)
            await self._node.blocking(self._node.images.collect)
            self._usage.clear()
        return api_pb2.RemoveImageResponse()

    async def ImageFsInfo(self, request: api_pb2.ImageFsInfoRequest, context: Any) -> api_pb2.ImageFsInfoResponse:
        images = await self._filesystem(self._node.options.images)
        containers = await self._filesystem(self._node.options.root)
        return api_pb2.ImageFsInfoResponse(image_filesystems=[images], container_filesystems=[containers])

    async def _filesystem(self, directory: Path) -> api_pb2.FilesystemUsage:
        kept = self._usage.get(directory)
        if kept is None or time.monotonic() - kept[0] > USAGE_AGE:
            kept = (time.monotonic(), *await self._node.blocking(disk_usage, directory))
            self._usage[directory] = kept
        _, used, inodes = kept
        return api_pb2.FilesystemUsage(
            timestamp=now(),
            fs_id=api_pb2.FilesystemIdentifier(mountpoint=str(directory)),
            used_bytes=api_pb2.UInt64Value(value=used),
            inodes_used=api_pb2.UInt64Value(value=inodes),
        )
