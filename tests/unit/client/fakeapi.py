"""A small API server behind our own `Transport` protocol: objects of any kind, in memory.

It has what controllers lean on: resource versions, conflicts, watches that resume, finalizers and
graceful deletion, the status subresource, ownerReferences left for the garbage collector. It knows
no kinds, defaults nothing and validates nothing.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tiphys.api.table import RESOURCES
from tiphys.base.clock import Clock
from tiphys.client.transport import Response

Json = dict[str, Any]


@dataclass(frozen=True)
class Target:
    collection: str  # /apis/apps/v1/deployments
    namespace: str
    name: str
    subresource: str


@dataclass(frozen=True)
class Logged:
    revision: int
    collection: str
    type: str
    obj: Json


def parse_target(path: str) -> Target:
    parts = path.strip("/").split("/")
    cut = 2 if parts[0] == "api" else 3
    prefix, rest = "/" + "/".join(parts[:cut]), [unquote(part) for part in parts[cut:]]
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces" and rest[2] not in ("finalize", "status"):
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "", "")[:3]
    return Target(f"{prefix}/{plural}", namespace, name, subresource)


def status(code: int, reason: str, message: str) -> Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return Response(code, json.dumps(body).encode())


def merge(base: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def matches_labels(selector: str, labels: Mapping[str, str]) -> bool:
    for term in filter(None, selector.split(",")):
        key, equals, value = term.partition("=")
        if labels.get(key) != value.lstrip("=") if equals else key not in labels:
            return False
    return True


def matches_fields(selector: str, obj: Json) -> bool:
    for term in filter(None, selector.split(",")):
        path, _, value = term.partition("=")
        negated, path = path.endswith("!"), path.removesuffix("!")
        found: Any = obj
        for part in path.split("."):
            found = (found or {}).get(part)
        if ((found or "") == value.lstrip("=")) is negated:
            return False
    return True


class FakeApi:
    """The server. `objects[collection][(namespace, name)]` is its state, `writes` what was asked of it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.objects: dict[str, dict[tuple[str, str], Json]] = defaultdict(dict)
        self.log: list[Logged] = []
        self.writes: list[tuple[str, str]] = []
        self.revision = 1
        self.oldest = 0  # watches from before this revision get 410
        self.on_create: list[Callable[[str, Json], None]] = []
        self._event = asyncio.Event()
        self._uids = 0
        self.watches = 0
        self._cut = 0

    # For tests

    def put(self, path: str, obj: Json) -> Json:
        """Create an object as another client would; `path` is its collection without namespace."""
        return self._create(path, obj["metadata"].get("namespace", ""), copy.deepcopy(obj))

    def change(self, path: str, namespace: str, name: str, patch: Json) -> Json:
        """Merge into an object, its status included."""
        new = merge(copy.deepcopy(self.objects[path][namespace, name]), patch)
        return self._replace(path, (namespace, name), new)

    def remove(self, path: str, namespace: str, name: str) -> None:
        """Take an object away at once, as a kubelet does with a pod that has ended."""
        self._remove(path, (namespace, name))

    def list(self, path: str, namespace: str = "") -> list[Json]:
        return [obj for (ns, _), obj in self.objects[path].items() if namespace in ("", ns)]

    def get(self, path: str, namespace: str, name: str) -> Json | None:
        return self.objects[path].get((namespace, name))

    def cut_watches(self) -> None:
        """Break every watch there is."""
        self._cut += 1
        self._notify()

    # The transport

    async def close(self) -> None:
        pass

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        await asyncio.sleep(0)
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        where = parse_target(parts.path)
        if method != "GET":
            self.writes.append((method, parts.path))
        data = json.loads(body) if body else {}
        if parts.path in ("/api", "/apis"):
            return _discovery(parts.path)
        key = (where.namespace, where.name)
        stored = self.objects[where.collection]
        if method == "GET" and not where.name:
            return self._list(where, query)
        if method == "POST" and where.subresource:
            return Response(201, json.dumps({"kind": "Status", "apiVersion": "v1", "status": "Success"}).encode())
        if method == "POST":
            return self._post(where, data)
        if method == "DELETE" and not where.name:
            for found in list(stored):
                if found[0] == where.namespace:
                    self._delete(where.collection, found, {})
            return Response(200, b'{"kind":"Status"}')
        if key not in stored:
            return status(404, "NotFound", f'{where.collection.rsplit("/", 1)[1]} "{where.name}" not found')
        if method == "GET":
            return _answer(stored[key])
        if method == "DELETE":
            return self._delete(where.collection, key, data)
        if method == "PATCH":
            data = self._patched(stored[key], data, headers.get("Content-Type", ""))
        return self._put(where, key, data)

    @asynccontextmanager
    async def stream(self, target: str, headers: Mapping[str, str]) -> AsyncIterator[Any]:
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.watches += 1
        yield _Stream(self, parse_target(parts.path), query)

    # The verbs

    def _list(self, where: Target, query: Mapping[str, str]) -> Response:
        items = [
            obj
            for (ns, _), obj in self.objects[where.collection].items()
            if where.namespace in ("", ns) and _selected(obj, query)
        ]
        body = {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": str(self.revision)}, "items": items}
        return Response(200, json.dumps(body).encode())

    def _post(self, where: Target, obj: Json) -> Response:
        meta = obj.setdefault("metadata", {})
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = f"{meta['generateName']}{self._uids:05d}"
        if (where.namespace, meta["name"]) in self.objects[where.collection]:
            return status(409, "AlreadyExists", f'"{meta["name"]}" already exists')
        return _answer(self._create(where.collection, where.namespace, obj), 201)

    def _put(self, where: Target, key: tuple[str, str], new: Json) -> Response:
        old = self.objects[where.collection][key]
        wanted = new["metadata"].get("resourceVersion", "")
        if wanted and wanted != old["metadata"]["resourceVersion"]:
            return status(
                409, "Conflict", "the object has been modified; please apply your changes to the latest version"
            )
        if where.subresource == "status":
            metadata = {**old["metadata"], "annotations": new["metadata"].get("annotations", {})}
            new = {**old, "metadata": metadata, "status": new.get("status", {})}
        elif where.subresource == "finalize":
            new = {**old, "spec": new.get("spec", {})}
        elif "status" in old:
            new = {**new, "status": old["status"]}
        return _answer(self._replace(where.collection, key, new))

    def _patched(self, old: Json, patch: Any, content_type: str) -> Json:
        if isinstance(patch, dict) and "strategic" in content_type:
            owners = patch.get("metadata", {}).get("ownerReferences")
            if owners is not None:
                patch = copy.deepcopy(patch)
                kept = {owner["uid"]: owner for owner in old["metadata"].get("ownerReferences", [])}
                for owner in owners:
                    if owner.get("$patch") == "delete":
                        kept.pop(owner["uid"], None)
                    else:
                        kept[owner["uid"]] = owner
                patch["metadata"]["ownerReferences"] = list(kept.values())
            uid = patch.get("metadata", {}).get("uid")
            if uid and uid != old["metadata"]["uid"]:
                patch = {**patch, "metadata": {**patch["metadata"], "resourceVersion": "0"}}
        return merge(copy.deepcopy(old), patch)  # type: ignore[no-any-return]

    def _delete(self, collection: str, key: tuple[str, str], options: Json) -> Response:
        obj = copy.deepcopy(self.objects[collection][key])
        meta = obj["metadata"]
        only_if = options.get("preconditions") or {}
        for name in ("uid", "resourceVersion"):
            if only_if.get(name, meta[name]) != meta[name]:
                return status(409, "Conflict", f"Precondition failed: {name} in precondition: {only_if[name]}")
        finalizer = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(options.get("propagationPolicy", ""))
        if finalizer and finalizer not in meta.get("finalizers", []):
            meta["finalizers"] = [*meta.get("finalizers", []), finalizer]
        grace = options.get("gracePeriodSeconds", 30)
        graceful = collection == "/api/v1/pods" and grace and obj.get("spec", {}).get("nodeName")
        if collection == "/api/v1/namespaces":
            graceful = bool(obj.get("spec", {}).get("finalizers"))
        if meta.get("finalizers") or graceful:
            if "deletionTimestamp" not in meta:
                meta["deletionTimestamp"] = self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
                meta["deletionGracePeriodSeconds"] = grace if graceful else 0
            self._replace(collection, key, obj)
            return _answer(obj)
        self._remove(collection, key)
        return Response(200, b'{"kind":"Status","status":"Success"}')

    # The state

    def _create(self, collection: str, namespace: str, obj: Json) -> Json:
        self._uids += 1
        meta = obj.setdefault("metadata", {})
        if namespace:
            meta["namespace"] = namespace
        meta.setdefault("uid", f"uid-{self._uids}")
        meta.setdefault("creationTimestamp", self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"))
        meta.setdefault("generation", 1)
        for hook in self.on_create:
            hook(collection, obj)
        return self._store(collection, (namespace, meta["name"]), obj, "ADDED")

    def _replace(self, collection: str, key: tuple[str, str], new: Json) -> Json:
        old = self.objects[collection][key]
        meta = {**new["metadata"], "resourceVersion": old["metadata"]["resourceVersion"], "uid": old["metadata"]["uid"]}
        if new.get("spec") != old.get("spec"):
            meta["generation"] = old["metadata"].get("generation", 0) + 1
        new = {**new, "metadata": meta}
        if new == old:
            return old
        kept = meta.get("finalizers") or (collection == "/api/v1/namespaces" and new.get("spec", {}).get("finalizers"))
        graceful = meta.get("deletionGracePeriodSeconds") and collection == "/api/v1/pods"
        if meta.get("deletionTimestamp") and not kept and not graceful:
            self.objects[collection][key] = new
            self._remove(collection, key)
            return new
        return self._store(collection, key, new, "MODIFIED")

    def _store(self, collection: str, key: tuple[str, str], obj: Json, event: str) -> Json:
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        self.objects[collection][key] = obj
        self.log.append(Logged(self.revision, collection, event, obj))
        self._notify()
        return obj

    def _remove(self, collection: str, key: tuple[str, str]) -> None:
        obj = copy.deepcopy(self.objects[collection].pop(key))
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        self.log.append(Logged(self.revision, collection, "DELETED", obj))
        self._notify()

    def _notify(self) -> None:
        changed, self._event = self._event, asyncio.Event()
        changed.set()


class _Stream:
    def __init__(self, api: FakeApi, where: Target, query: Mapping[str, str]) -> None:
        self._api, self._where, self._query = api, where, query
        self._from = int(query.get("resourceVersion") or 0)
        self.status = 410 if self._from < api.oldest else 200

    async def read(self) -> bytes:
        return status(410, "Expired", f"too old resource version: {self._from} ({self._api.oldest})").body

    async def chunks(self) -> AsyncIterator[bytes]:
        api, cut, position = self._api, self._api._cut, 0
        seen: set[tuple[str, str]] = set()
        while True:
            waiting = api._event
            while position < len(api.log):
                entry = api.log[position]
                position += 1
                if entry.revision > self._from and entry.collection == self._where.collection:
                    line = self._line(entry, seen)
                    if line:
                        yield line
            if api._cut != cut:
                return
            if waiting is api._event:
                await waiting.wait()

    def _line(self, entry: Logged, seen: set[tuple[str, str]]) -> bytes:
        meta = entry.obj["metadata"]
        if self._where.namespace not in ("", meta.get("namespace", "")):
            return b""
        kind = entry.type
        if not _selected(entry.obj, self._query):
            kind = "DELETED"  # it left the selection, if it ever was in it: the informer passes over strangers
        return json.dumps({"type": kind, "object": entry.obj}).encode() + b"\n"


def _selected(obj: Json, query: Mapping[str, str]) -> bool:
    labels = obj["metadata"].get("labels", {})
    return matches_labels(query.get("labelSelector", ""), labels) and matches_fields(
        query.get("fieldSelector", ""), obj
    )


def _answer(obj: Json, code: int = 200) -> Response:
    return Response(code, json.dumps(obj).encode())


def _discovery(path: str) -> Response:
    """Aggregated discovery of the kinds Tiphys knows."""
    groups: dict[str, dict[str, list[Json]]] = {}
    for resource in RESOURCES:
        if bool(resource.group) == (path == "/apis") and not resource.alpha:
            entry = {
                "resource": resource.plural,
                "responseKind": {"kind": resource.kind},
                "scope": "Namespaced" if resource.namespaced else "Cluster",
                "verbs": list(resource.verbs),
            }
            groups.setdefault(resource.group, {}).setdefault(resource.version, []).append(entry)
    items = [
        {
            "metadata": {"name": group},
            "versions": [{"version": version, "resources": found} for version, found in versions.items()],
        }
        for group, versions in groups.items()
    ]
    body = {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": items}
    return Response(200, json.dumps(body).encode())
