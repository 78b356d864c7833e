"""projected volumes: several sources in one directory, tokens among them.

https://kubernetes.io/docs/concepts/storage/projected-volumes/
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiphys.api.core.v1 import ConfigMap, Pod, Secret, ServiceAccountTokenProjection, Volume, VolumeProjection
from tiphys.base.clock import Clock
from tiphys.kubelet.volumes.atomic import File
from tiphys.kubelet.volumes.memory import release, write_in_memory
from tiphys.kubelet.volumes.payload import DEFAULT_MODE, config_map_data, downward_files, keyed_files, secret_data
from tiphys.kubelet.volumes.plugin import Mounted, VolumeContext, VolumeError
from tiphys.kubelet.volumes.token import DEFAULT_SECONDS, TokenManager
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName


@dataclass(frozen=True, slots=True)
class ProjectedPlugin:
    """Joins configMaps, secrets, fields and tokens; follows them all."""

    name: ClassVar[str] = "kubernetes.io/projected"
    read_config_map: Callable[[ObjectName], Awaitable[ConfigMap]]
    read_secret: Callable[[ObjectName], Awaitable[Secret]]
    tokens: TokenManager
    clock: Clock

    def handles(self, volume: Volume) -> bool:
        return volume.projected is not None

    async def set_up(self, context: VolumeContext) -> Mounted:
        source = context.volume.projected
        assert source is not None
        mode = DEFAULT_MODE if source.default_mode is None else source.default_mode
        files: dict[str, File] = {}
        refresh: list[float] = []
        for projection in source.sources:
            if projection.service_account_token is not None:
                path, file, seconds = await self._token(context, projection.service_account_token, mode)
                files[path] = file
                refresh.append(seconds)
            else:
                files.update(await self._files(context, projection, mode))
        await asyncio.to_thread(write_in_memory, context.directory, files, context.fs_group)
        return Mounted(path=context.directory, refresh_after=min(refresh) if refresh else None)

    async def tear_down(self, directory: Path) -> None:
        await asyncio.to_thread(release, directory)

    async def _files(self, context: VolumeContext, projection: VolumeProjection, mode: int) -> dict[str, File]:
        namespace = context.pod.metadata.namespace
        if (config_map := projection.config_map) is not None:
            optional = bool(config_map.optional)
            try:
                data = config_map_data(await self.read_config_map(ObjectName(namespace, config_map.name)))
            except NotFoundError as error:
                if not optional:
                    raise VolumeError(error.message) from error
                data = {}
            return keyed_files(data, config_map.items, mode, "configmap", optional=optional)
        if (secret := projection.secret) is not None:
            optional = bool(secret.optional)
            try:
                data = secret_data(await self.read_secret(ObjectName(namespace, secret.name)))
            except NotFoundError as error:
                if not optional:
                    raise VolumeError(error.message) from error
                data = {}
            return keyed_files(data, secret.items, mode, "secret", optional=optional)
        if projection.downward_api is not None:
            return downward_files(context, projection.downward_api.items, mode)
        raise VolumeError("this kind of projected source is not available on this node")

    async def _token(
        self, context: VolumeContext, source: ServiceAccountTokenProjection, mode: int
    ) -> tuple[str, File, float]:
        seconds = source.expiration_seconds or DEFAULT_SECONDS
        try:
            token = await self.tokens.token(context.pod, source.audience, seconds)
        except StatusError as error:
            raise VolumeError(f"failed to fetch token: {error.message}") from error
        left = (token.renew_at - self.clock.now()).total_seconds()
        owner = single_user(context.pod)
        if owner is not None:
            mode = 0o600
        elif context.fs_group is not None:
            mode = 0o600  # the group's read bit is added with the group itself
        return source.path, File(token.value.encode(), mode, owner), max(1.0, left)


def single_user(pod: Pod) -> int | None:
    """The one user that every container of the pod runs as, if the spec says so: a token is then its alone."""
    shared = pod.spec.security_context
    default = shared.run_as_user if shared else None
    users = set()
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        own = container.security_context.run_as_user if container.security_context else None
        users.add(default if own is None else own)
    return users.pop() if len(users) == 1 else None
