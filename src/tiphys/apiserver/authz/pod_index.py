"""What the pods of each node refer to: the Node authorizer's index.

    pod key → (node, generation, references)       node → resource → {(namespace, name): pods that refer to it}

Brought up to date when it is asked, from the watch cache's history: only pods that were written since are looked at,
and only those whose spec may have changed are parsed. References are kept, objects are not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from tiphys.apiserver.authz.references import references

Reference = tuple[str, str, str]  # resource, namespace, name
_GENERATION: Final = re.compile(rb'"uid":"([^"]*)","resourceVersion":"\d+"(?:,"generation":(\d+))?')
_CLAIM_STATUSES: Final = b"esourceClaimStatus"  # of resourceClaimStatuses and extendedResourceClaimStatus


class PodEntry(Protocol):
    """One version of a pod in the watch cache."""

    key: str
    tail: bytes

    def peek(self) -> dict[str, Any]:
        """The pod, parsed; not to be changed."""


class PodEvent(Protocol):
    """One change of a pod."""

    @property
    def entry(self) -> PodEntry | None: ...

    @property
    def previous(self) -> PodEntry | None: ...


class PodCache(Protocol):
    """The pods, and their recent changes (`watchcache.KindCache`)."""

    @property
    def last_change(self) -> int: ...

    @property
    def entries(self) -> Mapping[str, PodEntry]: ...

    def since(self, revision: int) -> Sequence[PodEvent] | None:
        """Changes after `revision`, oldest first; None when they are not all known any more."""

    def fields_of(self, entry: Any) -> Mapping[str, str]:
        """Selectable fields."""


class _Known(NamedTuple):
    node: str
    version: tuple[bytes, bytes | None] | None
    references: frozenset[Reference]


class PodIndex:
    """References of pods by node."""

    def __init__(self, cache: Callable[[], PodCache | None]) -> None:
        """`cache()` is the pods' watch cache, None before there is one."""
        self._cache = cache
        self._seen = -1
        self._known: dict[str, _Known] = {}
        self._counts: dict[str, dict[str, Counter[tuple[str, str]]]] = {}

    def refers(self, node: str, resource: str, namespace: str, name: str) -> bool:
        """Whether a pod of the node refers to an object."""
        self._catch_up()
        return (namespace, name) in self._counts.get(node, _NOTHING).get(resource, ())

    def all_of(self, node: str, resource: str) -> Sequence[tuple[str, str]]:
        """(namespace, name) of every object of a resource the node's pods refer to."""
        self._catch_up()
        return tuple(self._counts.get(node, _NOTHING).get(resource, ()))

    def _catch_up(self) -> None:
        cache = self._cache()
        if cache is None or cache.last_change == self._seen:
            return
        events = cache.since(self._seen) if self._seen >= 0 else None
        if events is None:
            for key in self._known.keys() - cache.entries.keys():
                self._forget(key)
            for entry in cache.entries.values():
                self._take(cache, entry)
        else:
            for event in events:
                if event.entry is not None:
                    self._take(cache, event.entry)
                elif event.previous is not None:
                    self._forget(event.previous.key)
        self._seen = cache.last_change

    def _take(self, cache: PodCache, entry: PodEntry) -> None:
        node = cache.fields_of(entry).get("spec.nodeName", "")
        known = self._known.get(entry.key)
        if not node:
            if known is not None:
                self._forget(entry.key)
            return
        version = _version(entry.tail)
        if known is not None and known.node == node and version is not None and known.version == version:
            return
        found = _Known(node, version, frozenset(references(entry.peek())))
        if known is not None:
            self._forget(entry.key)
        self._known[entry.key] = found
        counts = self._counts.setdefault(node, {})
        for resource, namespace, name in found.references:
            counts.setdefault(resource, Counter())[namespace, name] += 1

    def _forget(self, key: str) -> None:
        known = self._known.pop(key, None)
        if known is None:
            return
        counts = self._counts[known.node]
        for resource, namespace, name in known.references:
            of_resource = counts[resource]
            of_resource[namespace, name] -= 1
            if not of_resource[namespace, name]:
                del of_resource[namespace, name]
                if not of_resource:
                    del counts[resource]
        if not counts:
            del self._counts[known.node]


_NOTHING: Final[dict[str, Counter[tuple[str, str]]]] = {}


def _version(tail: bytes) -> tuple[bytes, bytes | None] | None:
    """What identifies a pod's spec: uid and generation; None where its status has references, too."""
    match = _GENERATION.search(tail, 0, 1024)
    if match is None or match[2] is None or _CLAIM_STATUSES in tail:
        return None
    return match[1], match[2]
