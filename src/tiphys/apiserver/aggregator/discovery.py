"""What an extension server serves, as aggregated discovery says it.

One request to /apis of a server that knows aggregated discovery; one to /apis/GROUP/VERSION, whose list is then turned
into the newer form, of one that does not. https://kubernetes.io/docs/concepts/overview/kubernetes-api/#aggregated-discovery
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from tiphys.apiserver.aggregator.apiservices import Registration
from tiphys.apiserver.aggregator.identity import AGGREGATOR
from tiphys.apiserver.aggregator.transport import Transport, TransportError
from tiphys.apiserver.authn.interface import UserInfo

Object = dict[str, Any]

ACCEPT: Final = (
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
)
FETCH_TIMEOUT: Final = 5.0  # seconds
_LEGACY_USER: Final = UserInfo(AGGREGATOR.name)


@dataclass(frozen=True, slots=True)
class Discovered:
    """A version's entry in an APIGroupDiscoveryList, and the ETag of the document it was in."""

    entry: Object
    etag: str = ""


def stale(version: str) -> Object:
    """The entry of a version nobody can say anything about now."""
    return {"version": version, "freshness": "Stale"}


async def discover(transport: Transport, one: Registration, known: Discovered | None) -> Discovered:
    """Ask the server behind `one`; `known` again when nothing has changed. Raises TransportError."""
    headers = [("Accept", ACCEPT)]
    if known is not None and known.etag:
        headers.append(("If-None-Match", known.etag))
    answer = await transport.fetch(one, "/apis", AGGREGATOR, headers=headers, timeout=FETCH_TIMEOUT)
    if answer.status == 304 and known is not None:
        return known
    if answer.status == 200 and "as=APIGroupDiscoveryList" in answer.headers.get("content-type", ""):
        return Discovered(version_entry(_parsed(answer.body), one), answer.headers.get("etag", ""))
    accept = [("Accept", "application/json")]
    answer = await transport.fetch(one, one.path, _LEGACY_USER, headers=accept, timeout=FETCH_TIMEOUT)
    if answer.status != 200:
        raise TransportError(f"bad status from {one.path}: {answer.status}")
    entry = from_resource_list(_parsed(answer.body), one.version)
    check_entry(entry)
    return Discovered(entry)


def _parsed(body: bytes) -> Object:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise TransportError(f"the discovery document is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise TransportError("the discovery document is not an object")
    return found


def version_entry(document: Mapping[str, Any], one: Registration) -> Object:
    """What an APIGroupDiscoveryList says about the version of `one`; nothing in it when it is not listed."""
    for group in document.get("items") or ():
        if (group.get("metadata") or {}).get("name", "") != one.group:
            continue
        for version in group.get("versions") or ():
            if version.get("version") == one.version:
                check_entry(version)
                return {**version, "freshness": "Current"}
    return {"version": one.version, "freshness": "Current"}


def check_entry(entry: Mapping[str, Any]) -> None:
    """TransportError for an entry clients could not read: one broken server must not break discovery for all."""
    for resource in _objects(entry.get("resources")):
        _check_one(resource, "resource")
        for subresource in _objects(resource.get("subresources")):
            _check_one(subresource, "subresource")


def _objects(value: Any) -> Sequence[Mapping[str, Any]]:
    found = value or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise TransportError("the discovery document is malformed: resources are no list of objects")
    return found


def _check_one(one: Mapping[str, Any], name: str) -> None:
    verbs, kind = one.get("verbs") or [], one.get("responseKind") or {}
    texts = isinstance(verbs, list) and all(isinstance(verb, str) for verb in verbs)
    if not (isinstance(one.get(name), str) and texts and isinstance(kind, dict)):
        raise TransportError(f"the discovery document is malformed: {name} {one.get(name)!r}")


def from_resource_list(document: Mapping[str, Any], version: str) -> Object:
    """An APIResourceList in the newer form: subresources are found below their resource."""
    listed: Sequence[Mapping[str, Any]] = document.get("resources") or ()
    resources: dict[str, Object] = {}
    for one in listed:
        if "/" not in one["name"]:
            resources[one["name"]] = _resource(one)
    for one in listed:
        parent, _, name = one["name"].partition("/")
        if not name:
            continue
        if parent not in resources:  # a subresource of something that cannot be asked for itself
            scope = "Namespaced" if one.get("namespaced") else "Cluster"
            resources[parent] = {"resource": parent, "scope": scope, "singularResource": "", "verbs": []}
        found = {"subresource": name, "responseKind": _kind(one), "verbs": list(one.get("verbs") or ())}
        resources[parent].setdefault("subresources", []).append(found)
    return {"version": version, "resources": list(resources.values()), "freshness": "Current"}


def _kind(one: Mapping[str, Any]) -> Object:
    return {"group": one.get("group", ""), "version": one.get("version", ""), "kind": one.get("kind", "")}


def _resource(one: Mapping[str, Any]) -> Object:
    entry: Object = {
        "resource": one["name"],
        "responseKind": _kind(one),
        "scope": "Namespaced" if one.get("namespaced") else "Cluster",
        "singularResource": one.get("singularName", ""),
        "verbs": list(one.get("verbs") or ()),
    }
    for key in ("shortNames", "categories"):
        if one.get(key):
            entry[key] = list(one[key])
    return entry
