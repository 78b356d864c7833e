"""What the server serves now: every resource of every group, custom ones included.

One request to each of /api and /apis where the server has aggregated discovery, one more a group
version where it has not. https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tiphys.base.log import get_logger
from tiphys.client.endpoint import Endpoint, PartialObject, metadata_endpoint
from tiphys.client.rest import Client
from tiphys.client.transport import ApiConnectionError
from tiphys.machinery.errors import StatusError

log = get_logger(__name__)

AGGREGATED: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"


@dataclass(frozen=True, slots=True)
class ApiResource:
    """One resource in one version; `preferred` is the version its group prefers."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    verbs: frozenset[str]
    preferred: bool = True

    @property
    def endpoint(self) -> Endpoint[PartialObject]:
        """Its endpoint, for metadata."""
        return metadata_endpoint(self.group, self.version, self.plural, self.kind, namespaced=self.namespaced)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True, slots=True)
class Discovery:
    """All resources, and what could not be discovered (an aggregated server that is down, for example)."""

    resources: tuple[ApiResource, ...]
    failed: Mapping[str, str]

    def preferred(self, *verbs: str) -> list[ApiResource]:
        """The resources that have all of `verbs`, each in one version: its group's preferred one where it is there."""
        chosen: dict[tuple[str, str], ApiResource] = {}
        for resource in self.resources:
            if resource.verbs.issuperset(verbs):
                key = (resource.group, resource.plural)
                if key not in chosen or (resource.preferred and not chosen[key].preferred):
                    chosen[key] = resource
        return list(chosen.values())

    def find(self, api_version: str, kind: str) -> ApiResource | None:
        """The resource of a kind as references name it."""
        for resource in self.resources:
            if resource.kind == kind and resource.api_version == api_version:
                return resource
        return None


async def discover(client: Client) -> Discovery:
    """Ask the server. Raises StatusError or ApiConnectionError when it cannot be asked at all."""
    resources: list[ApiResource] = []
    failed: dict[str, str] = {}
    for root in ("/api", "/apis"):
        answer = await client.request_json("GET", root, accept=AGGREGATED)
        if answer.get("kind") == "APIGroupDiscoveryList":
            resources.extend(_aggregated(answer, failed))
        elif root == "/api":
            resources.extend(await _legacy(client, "", "v1", True, failed))
        else:
            for group in answer.get("groups") or ():
                preferred = (group.get("preferredVersion") or {}).get("version")
                for entry in group.get("versions") or ():
                    version = entry["version"]
                    resources.extend(await _legacy(client, group["name"], version, version == preferred, failed))
    return Discovery(tuple(resources), failed)


def _aggregated(answer: Mapping[str, Any], failed: dict[str, str]) -> Iterator[ApiResource]:
    for group in answer.get("items") or ():
        name = (group.get("metadata") or {}).get("name", "")
        for index, version in enumerate(group.get("versions") or ()):
            if version.get("freshness") == "Stale":
                stale = f"{name}/{version['version']}"
                failed[stale] = f"stale GroupVersion discovery: {stale}"
                continue
            for entry in version.get("resources") or ():
                kind = (entry.get("responseKind") or {}).get("kind", "")
                yield ApiResource(
                    group=name,
                    version=version["version"],
                    plural=entry["resource"],
                    kind=kind,
                    namespaced=entry.get("scope") == "Namespaced",
                    verbs=frozenset(entry.get("verbs") or ()),
                    preferred=index == 0,
                )


async def _legacy(
    client: Client, group: str, version: str, preferred: bool, failed: dict[str, str]
) -> list[ApiResource]:
    path = f"/apis/{group}/{version}" if group else f"/api/{version}"
    try:
        answer = await client.request_json("GET", path)
    except (StatusError, ApiConnectionError) as error:
        failed[f"{group}/{version}"] = str(error)
        return []
    return [
        ApiResource(
            group=group,
            version=version,
            plural=entry["name"],
            kind=entry["kind"],
            namespaced=bool(entry.get("namespaced")),
            verbs=frozenset(entry.get("verbs") or ()),
            preferred=preferred,
        )
        for entry in answer.get("resources") or ()
        if "/" not in entry["name"]
    ]
