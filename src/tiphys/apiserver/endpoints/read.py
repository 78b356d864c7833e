"""GET of one object and of lists.

A list is served from the cache when its revision is the current one for its kind, else from the store's history at
exactly the revision asked for. Both are read in one turn of the loop, so a list is one consistent state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from tiphys.apiserver.endpoints.continue_token import decode_continue, encode_continue
from tiphys.apiserver.endpoints.forms import Form, list_metadata
from tiphys.apiserver.endpoints.list_options import (
    EXACT,
    NOT_OLDER_THAN,
    ListOptions,
    parse_revision,
)
from tiphys.apiserver.http.response import Response
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.watchcache import Entry, Filter, WatchCache
from tiphys.apiserver.watchcache.foreign import entry_of
from tiphys.apiserver.watchcache.unreadable import why_unreadable
from tiphys.machinery.errors import StatusError, bad_request, expired, plain_error, status_of
from tiphys.store import CompactedError, FutureRevisionError, KeyValue, prefix_end

FRESH_TIMEOUT = 3.0  # seconds a read waits for a revision the cache has not seen


async def get_object(
    served: ServedResource, cache: WatchCache, form: Form, namespace: str, name: str, resource_version: str
) -> Response:
    """Answer a GET. `resource_version` only says how old the answer may at most be."""
    await require_revision(cache, resource_version)
    entry = await served.store.current(namespace, name)
    return Response(200, form.object(entry), content_type=form.content_type)


async def require_revision(cache: WatchCache, resource_version: str) -> None:
    """Wait until the cache is as fresh as the client asks: "" means current, "0" anything."""
    if not resource_version:
        await cache.wait_fresh()
        return
    try:
        revision = parse_revision(resource_version)
    except ValueError as error:
        raise plain_error(str(error)) from None
    if not await cache.wait_revision(revision, FRESH_TIMEOUT):
        raise too_large(revision, cache.revision)


def too_large(wanted: int, current: int, *, retry_after: int = 1) -> StatusError:
    """504: the client knows a revision this server does not."""
    details: dict[str, object] = {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    }
    if retry_after:
        details["retryAfterSeconds"] = retry_after
    message = f"Timeout: Too large resource version: {wanted}, current: {current}"
    return StatusError(status_of(504, "Timeout", message, details))


async def list_objects(
    served: ServedResource, cache: WatchCache, form: Form, options: ListOptions, wanted: Filter
) -> Response:
    """Answer a LIST."""
    page = await read_page(served, cache, options, wanted)
    body = form.list(page.entries, list_metadata(page.revision, page.continue_token, page.remaining))
    return Response(200, body, content_type=form.content_type)


class Page:
    """A page of a list: what it holds and where the next begins."""

    __slots__ = ("continue_token", "entries", "remaining", "revision")

    def __init__(self, entries: Sequence[Entry], revision: int) -> None:
        self.entries = entries
        self.revision = revision
        self.continue_token = ""
        self.remaining: int | None = None


async def read_page(served: ServedResource, cache: WatchCache, options: ListOptions, wanted: Filter) -> Page:
    """The page that `options` ask for."""
    revision, start = await _starting_point(cache, options)
    await served.store.fresh()
    now = served.store.revision
    kind = served.store.kind.cache
    wanted = _pinned(served, wanted)
    if kind.unreadable and options.resource_version != "0":
        served.store.check_all_readable(wanted.namespace, wanted.name)
    prefix = f"{wanted.namespace}/" if wanted.namespace and served.resource.namespaced else ""
    start_key = prefix + start if start else ""
    # From the cache, whatever its age, a list comes whole: upstream ignores the limit there too. One object is a page.
    limit = max(0, options.limit) if options.resource_version != "0" and not wanted.name else 0
    if revision <= 0 or kind.last_change <= revision <= now:
        at = now if revision <= 0 else revision
        found = kind.select(wanted, start_key)
        page = Page(list(islice(found, limit)) if limit else list(found), at)
        if limit and len(page.entries) == limit:
            low, high = kind.span(wanted.namespace, page.entries[-1].key + "\0")
            _continue(page, prefix, wanted, high - low)
        return page
    entries, keys = await _entries_at(served, cache, wanted, revision, start_key, options)
    page = Page(entries[:limit] if limit else entries, revision)
    if limit and len(page.entries) == limit:
        _continue(page, prefix, wanted, len(keys) - 1 - keys.index(page.entries[-1].key))
    return page


def _pinned(served: ServedResource, wanted: Filter) -> Filter:
    """The filter with the name that its field selector says, where that leaves one object."""
    name = wanted.fields.exact("metadata.name") if wanted.fields is not None else None
    if not name or wanted.name or (served.resource.namespaced and not wanted.namespace):
        return wanted
    return replace(wanted, name=name)


def _continue(page: Page, prefix: str, wanted: Filter, following: int) -> None:
    """Give a full page its token. With selectors nobody knows whether the objects that follow match, as upstream."""
    if following:
        page.continue_token = encode_continue(page.revision, page.entries[-1].key[len(prefix) :] + "\0")
        if not wanted.selects:
            page.remaining = following


async def _starting_point(cache: WatchCache, options: ListOptions) -> tuple[int, str]:
    """(exact revision, 0 or less for the current one; the key to begin with)."""
    text = options.resource_version
    if options.continue_token:
        revision, start = decode_continue(options.continue_token)
        if text and text != "0":
            raise bad_request("specifying resource version is not allowed when using continue")
        await cache.wait_fresh()
        return revision, start
    if not text:
        await cache.wait_fresh()
        return 0, ""
    try:
        revision = parse_revision(text)
    except ValueError as error:
        raise bad_request(f"invalid resource version: {error}") from None
    match = options.resource_version_match
    if not await cache.wait_revision(revision, FRESH_TIMEOUT):
        raise too_large(revision, cache.revision)
    # A limit with a revision and no match means that revision exactly: upstream's behaviour from before the match.
    exact = match == EXACT or (options.limit > 0 and match != NOT_OLDER_THAN)
    return (revision if exact and revision else 0), ""


async def _entries_at(
    served: ServedResource, cache: WatchCache, wanted: Filter, revision: int, start_key: str, options: ListOptions
) -> tuple[list[Entry], list[str]]:
    """(matching objects, keys of all objects) at an older revision, from the store."""
    kind = served.store.kind.cache
    inside = kind.prefix + (f"{wanted.namespace}/" if wanted.namespace and kind.namespaced else "")
    try:
        found = await cache.store.range(
            kind.prefix + start_key if start_key else inside, prefix_end(inside), revision=revision
        )
    except CompactedError:
        raise _expired(start_key, wanted, served, options) from None
    except FutureRevisionError:
        raise too_large(revision, cache.revision, retry_after=0) from None
    entries: list[Entry] = []
    for item in found.items:
        own = item.key[len(kind.prefix) :]
        known = kind.entries.get(own)
        if known is not None and known.revision == item.mod_revision:
            entry = known
        else:
            entry = _old_entry(served, item, own)
        entries.append(entry)
    keys = [entry.key for entry in entries]
    return [entry for entry in await served.store.shown(entries) if wanted.matches(entry, kind.fields_of)], keys


def _old_entry(served: ServedResource, item: KeyValue, own: str) -> Entry:
    try:
        return entry_of(item, own)
    except ValueError as error:
        raise served.store.cannot_read(own, why_unreadable(item.value) or str(error)) from None


def _expired(start_key: str, wanted: Filter, served: ServedResource, options: ListOptions) -> StatusError:
    if not options.continue_token:
        return expired("The resourceVersion for the provided list is too old.")
    prefix = f"{wanted.namespace}/" if wanted.namespace and served.resource.namespaced else ""
    status = status_of(
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
        "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
        "modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    )
    status["metadata"] = {"continue": encode_continue(-1, start_key[len(prefix) :])}
    return StatusError(status)
