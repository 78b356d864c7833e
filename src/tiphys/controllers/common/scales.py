"""The scale subresource of whatever can be scaled: built in or custom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tiphys.api.table import resource_by_kind
from tiphys.client import Client, discover
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import GroupResource


@dataclass(frozen=True, slots=True)
class Scale:
    """What is scaled, as its scale subresource says."""

    path: str
    body: dict[str, Any]

    @property
    def replicas(self) -> int:
        return int((self.body.get("spec") or {}).get("replicas") or 0)

    @property
    def running(self) -> int:
        return int((self.body.get("status") or {}).get("replicas") or 0)

    @property
    def selector(self) -> str:
        return str((self.body.get("status") or {}).get("selector") or "")


class UnknownKind(Exception):
    """The server serves no such kind."""


class NotScalable(Exception):
    """The kind has no scale subresource."""


class Targets:
    """Reads and writes scales."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._plurals: dict[tuple[str, str], str] = {}

    async def plural(self, api_version: str, kind: str) -> str:
        """The resource of a kind. Raises UnknownKind."""
        group, _, version = api_version.rpartition("/")
        known = resource_by_kind(group, version, kind)
        if known is not None:
            return known.plural
        if (api_version, kind) not in self._plurals:
            found = (await discover(self._client)).find(api_version, kind)
            if found is None:
                raise UnknownKind(f'no matches for kind "{kind}" in version "{api_version}"')
            self._plurals[api_version, kind] = found.plural
        return self._plurals[api_version, kind]

    async def get(self, namespace: str, api_version: str, kind: str, name: str) -> Scale:
        """The scale of an object. Raises UnknownKind, StatusError."""
        plural = await self.plural(api_version, kind)
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        path = f"{root}/namespaces/{namespace}/{plural}/{name}/scale"
        return Scale(path, await self._client.request_json("GET", path))

    async def find(self, namespace: str, api_version: str, kind: str, name: str) -> Scale | None:
        """The scale of an object, None when there is no such object. Raises NotScalable, UnknownKind, StatusError."""
        plural = await self.plural(api_version, kind)
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            return await self.get(namespace, api_version, kind, name)
        except NotFoundError:
            served = await self._client.request_json("GET", root)
        if any(entry["name"] == f"{plural}/scale" for entry in served.get("resources") or ()):
            return None
        group = api_version.rpartition("/")[0]
        raise NotScalable(f"{GroupResource(group, plural)} does not implement the scale subresource")

    async def set(self, scale: Scale, replicas: int) -> None:
        """Let there be `replicas`. Raises ConflictError when someone else scaled meanwhile."""
        body = {**scale.body, "spec": {**(scale.body.get("spec") or {}), "replicas": replicas}}
        await self._client.request_json("PUT", scale.path, body)
