"""The REST client: typed verbs over any kind of the API, and plain requests for what has no type.

Every error the server answers is a `StatusError` subclass (`NotFoundError`, `ConflictError`, …); a
server that cannot be reached is `ApiConnectionError`. Answers that say when to come back (429, and
503 with Retry-After) are retried here, as every Kubernetes client does.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlencode

import msgspec

from tiphys.base.clock import Clock, SystemClock
from tiphys.client.config import RestConfig
from tiphys.client.endpoint import (
    JSON,
    Endpoint,
    ListBody,
    Object,
    encode_body,
    endpoint_of,
    watch_line,
)
from tiphys.client.results import EventType, ListResult, PatchType, Preconditions, WatchEvent
from tiphys.client.transport import ApiConnectionError, HttpTransport, Response, StreamedResponse, Transport
from tiphys.machinery.errors import StatusError
from tiphys.machinery.meta import ObjectName

T = TypeVar("T", bound=Object)
S = TypeVar("S")

MAX_RETRIES: Final = 10
# A watch is ended by the server after a random time in this range, so that they spread over servers.
WATCH_SECONDS: Final = (300, 600)
BOOKMARK_END: Final = "k8s.io/initial-events-end"


class Client:
    """Talks to one API server. Use it as an async context manager, or call `close`."""

    def __init__(
        self,
        config: RestConfig,
        user_agent: str = "tiphys/v1.36.2",
        *,
        clock: Clock | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.config = config
        self.user_agent = user_agent
        self._clock = clock or SystemClock()
        self._transport = transport or HttpTransport(config)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; a later request opens new ones."""
        await self._transport.close()

    # Reading

    async def get(self, kind: type[T] | Endpoint[T], key: ObjectName) -> T:
        """One object. Raises NotFoundError."""
        endpoint = _endpoint(kind)
        answer = await self._send("GET", endpoint.path(*key), accept=endpoint.accept)
        return endpoint.decode(answer.body)

    async def list(
        self,
        kind: type[T] | Endpoint[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        limit: int = 0,
        continue_: str = "",
    ) -> ListResult[T]:
        """The objects of a kind; `namespace` empty means all. With `limit`, one page of them.

        `resource_version` "0" accepts any state the server has at hand; "" asks for the newest.
        """
        endpoint = _endpoint(kind)
        query = _query(
            labelSelector=label_selector,
            fieldSelector=field_selector,
            resourceVersion=resource_version,
            limit=str(limit) if limit else "",
        )
        if continue_:
            query["continue"] = continue_
        answer = await self._send("GET", endpoint.path(namespace), query, accept=endpoint.list_accept)
        body: ListBody[T] = endpoint.decode_list(answer.body)
        return ListResult(body.items or [], body.metadata.resource_version, body.metadata.continue_)

    async def watch(
        self,
        kind: type[T] | Endpoint[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        timeout_seconds: int = 0,
    ) -> AsyncIterator[WatchEvent[T]]:
        """Changes after `resource_version`, bookmarks among them, until the server ends the watch.

        Raises ExpiredError when that revision is no longer kept, ApiConnectionError when it breaks off.
        """
        batches = self.watch_batches(
            kind,
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            resource_version=resource_version,
            timeout_seconds=timeout_seconds,
        )
        async with aclosing(batches):
            async for batch in batches:
                for event in batch:
                    yield event

    async def watch_batches(
        self,
        kind: type[T] | Endpoint[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
        timeout_seconds: int = 0,
    ) -> AsyncGenerator[Sequence[WatchEvent[T]], None]:
        """As `watch`, with the events that arrived together in one list: cheaper for busy kinds."""
        endpoint = _endpoint(kind)
        query = _query(
            watch="1",
            allowWatchBookmarks="true",
            labelSelector=label_selector,
            fieldSelector=field_selector,
            resourceVersion=resource_version,
            timeoutSeconds=str(timeout_seconds or random.randint(*WATCH_SECONDS)),
        )
        target = f"{endpoint.path(namespace)}?{urlencode(query)}"
        async with self._transport.stream(target, self._headers(endpoint.accept)) as answer:
            if answer.status != 200:
                raise _error(answer.status, await answer.read(), "GET", target)
            async for batch in _batches(answer, endpoint):
                yield batch

    # Writing

    async def create(self, obj: T, *, namespace: str = "", dry_run: bool = False, field_manager: str = "") -> T:
        """Create `obj` in its own namespace (or `namespace`). Raises AlreadyExistsError, InvalidError, …"""
        endpoint = endpoint_of(type(obj))
        query = _query(dryRun="All" if dry_run else "", fieldManager=field_manager)
        path = endpoint.path(namespace or obj.metadata.namespace)
        answer = await self._send("POST", path, query, encode_body(obj))
        return endpoint.decode(answer.body)

    async def update(self, obj: T, *, field_manager: str = "") -> T:
        """Replace the object. With a resource version in its metadata, raises ConflictError if it has moved on."""
        return await self._put(obj, "", field_manager)

    async def update_status(self, obj: T, *, field_manager: str = "") -> T:
        """Replace the object's status only."""
        return await self._put(obj, "status", field_manager)

    async def patch(
        self,
        kind: type[T] | Endpoint[T],
        key: ObjectName,
        patch: object,
        *,
        patch_type: PatchType = PatchType.MERGE,
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
        dry_run: bool = False,
    ) -> T:
        """Apply a patch of plain JSON data or a typed object; `force` takes over fields (APPLY only)."""
        endpoint = _endpoint(kind)
        query = _query(fieldManager=field_manager, force="true" if force else "", dryRun="All" if dry_run else "")
        answer = await self._send(
            "PATCH",
            endpoint.path(*key, subresource),
            query,
            encode_body(patch),
            content_type=patch_type,
            accept=endpoint.accept,
        )
        return endpoint.decode(answer.body)

    async def delete(
        self,
        kind: type[T] | Endpoint[T],
        key: ObjectName,
        *,
        only_if: Preconditions | None = None,
        grace_period_seconds: int | None = None,
        propagation: str | None = None,
    ) -> None:
        """Ask for deletion. Raises NotFoundError, ConflictError when `only_if` does not hold."""
        await self._send(
            "DELETE", _endpoint(kind).path(*key), body=_delete_options(only_if, grace_period_seconds, propagation)
        )

    async def delete_collection(
        self,
        kind: type[T] | Endpoint[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        propagation: str | None = None,
    ) -> None:
        """Delete every object that matches."""
        query = _query(labelSelector=label_selector, fieldSelector=field_selector)
        body = _delete_options(None, None, propagation)
        await self._send("DELETE", _endpoint(kind).path(namespace), query, body)

    async def create_subresource(self, kind: type[T] | Endpoint[T], key: ObjectName, subresource: str, body: S) -> S:
        """POST to a subresource (pods/binding, pods/eviction, serviceaccounts/token); the answer as `body`'s type.

        Where the server answers a Status instead (binding, eviction), `body` itself comes back.
        """
        answer = await self._send("POST", _endpoint(kind).path(*key, subresource), body=encode_body(body))
        head = msgspec.json.decode(answer.body, type=_TypeHead)
        if head.kind == "Status":
            return body
        return msgspec.json.decode(answer.body, type=type(body))

    async def request_json(
        self,
        method: str,
        path: str,
        body: object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> dict[str, Any]:
        """Any request, in plain JSON data; for kinds known only at run time."""
        encoded = None if body is None else encode_body(body)
        answer = await self._send(method, path, query, encoded, content_type=content_type, accept=accept)
        decoded: dict[str, Any] = msgspec.json.decode(answer.body)
        return decoded

    async def request_bytes(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, accept: str = "*/*"
    ) -> bytes:
        """Any request whose answer is not JSON: logs, metrics, health."""
        return (await self._send(method, path, query, accept=accept)).body

    async def stream_bytes(self, path: str, *, query: Mapping[str, str] | None = None) -> AsyncGenerator[bytes, None]:
        """The body of a GET as it arrives, for example a log that is followed."""
        target = f"{path}?{urlencode(query)}" if query else path
        async with self._transport.stream(target, self._headers("*/*")) as answer:
            if answer.status != 200:
                raise _error(answer.status, await answer.read(), "GET", target)
            async for chunk in answer.chunks():
                yield chunk

    # Underneath

    async def _put(self, obj: T, subresource: str, field_manager: str) -> T:
        endpoint = endpoint_of(type(obj))
        path = endpoint.path(obj.metadata.namespace, obj.metadata.name, subresource)
        answer = await self._send("PUT", path, _query(fieldManager=field_manager), encode_body(obj))
        return endpoint.decode(answer.body)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Response:
        target = f"{path}?{urlencode(query)}" if query else path
        headers = self._headers(accept)
        if body is not None:
            headers["Content-Type"] = content_type
        for attempt in range(MAX_RETRIES + 1):
            answer = await self._transport.request(method, target, headers, body)
            if answer.status < 300:
                return answer
            wait = _retry_after(answer)
            if wait is None or attempt == MAX_RETRIES:
                break
            await self._clock.sleep(wait)
        raise _error(answer.status, answer.body, method, target)

    def _headers(self, accept: str) -> dict[str, str]:
        # Compression costs both sides more than it saves on one machine.
        return {"Accept": accept, "User-Agent": self.user_agent, "Accept-Encoding": "identity"}


class _TypeHead(msgspec.Struct, frozen=True):
    kind: str = ""


def _endpoint(kind: type[T] | Endpoint[T]) -> Endpoint[T]:
    return kind if isinstance(kind, Endpoint) else endpoint_of(kind)


def _query(**parameters: str) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value}


def _delete_options(only_if: Preconditions | None, grace: int | None, propagation: str | None) -> bytes | None:
    options: dict[str, Any] = {}
    if grace is not None:
        options["gracePeriodSeconds"] = grace
    if propagation:
        options["propagationPolicy"] = propagation
    if only_if is not None:
        options["preconditions"] = _query(uid=only_if.uid, resourceVersion=only_if.resource_version)
    if not options:
        return None
    return msgspec.json.encode({"kind": "DeleteOptions", "apiVersion": "v1", **options})


def _retry_after(answer: Response) -> float | None:
    """Seconds the server asks to wait, for the answers that may be retried; None for the others."""
    if answer.status != 429 and answer.status < 500:
        return None
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None


def _error(status: int, body: bytes, method: str, target: str) -> StatusError:
    """The StatusError of an answer; one that is not a Status gets the generic words clients use."""
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.DecodeError:
        decoded = None
    if isinstance(decoded, dict) and decoded.get("kind") == "Status":
        return StatusError.from_status({"code": status, **decoded})
    text = body[:2048].decode(errors="replace").strip()
    return StatusError.from_status(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "code": status,
            "reason": _REASONS.get(status, "InternalError" if status >= 500 else "Unknown"),
            "message": text or f"the server answered {status} to {method} {target}",
        }
    )


_REASONS: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Gone",
    422: "Invalid",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
    504: "Timeout",
}


async def _batches(answer: StreamedResponse, endpoint: Endpoint[T]) -> AsyncGenerator[Sequence[WatchEvent[T]], None]:
    """Cut the body into lines and decode them; a line may be spread over chunks or share one."""
    rest = b""
    async for chunk in answer.chunks():
        if b"\n" not in chunk:
            rest += chunk
            continue
        *lines, tail = chunk.split(b"\n")
        lines[0] = rest + lines[0]
        rest = tail
        batch = [_event(line, endpoint) for line in lines if line.strip()]
        if batch:
            yield batch
    if rest.strip():
        # The last line was cut off with the connection: resume from the event before it.
        raise ApiConnectionError("the watch broke off inside an event")


# A look-up in the enumeration itself costs several times as much, and there is one for every event.
_EVENTS: Final = {each.value: each for each in EventType}


def _event(line: bytes, endpoint: Endpoint[T]) -> WatchEvent[T]:
    framed = watch_line.decode(line)
    if framed.type == "ERROR":
        status = msgspec.json.decode(framed.object)
        raise StatusError.from_status(status)
    obj = endpoint.decode(framed.object)
    end = framed.type == "BOOKMARK" and obj.metadata.annotations.get(BOOKMARK_END) == "true"
    return WatchEvent(_EVENTS[framed.type], obj, obj.metadata.resource_version, end)
