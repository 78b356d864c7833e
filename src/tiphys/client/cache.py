"""The local cache of one kind: objects by name, found also through indexes.

        by name                       indexes
    ns/a -> Pod a             "node":      n1 -> {ns/a, ns/b}
    ns/b -> Pod b                          n2 -> {ns/c}
    ns/c -> Pod c             "namespace": ns -> {ns/a, ns/b, ns/c}

An index is a function from an object to the values it is filed under. What is read here is shared
by everyone and is never changed: the objects are frozen.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from tiphys.client.endpoint import Object
from tiphys.machinery.meta import ObjectName

T = TypeVar("T", bound=Object)
T_co = TypeVar("T_co", bound=Object, covariant=True)

IndexFunction = Callable[[T], Iterable[str]]
NAMESPACE: Final = "namespace"


class Selector(Protocol):
    """A label selector."""

    def matches(self, labels: dict[str, str]) -> bool: ...


def key_of(obj: Object) -> ObjectName:
    """The name an object is kept under."""
    return ObjectName(obj.metadata.namespace, obj.metadata.name)


class Indexer(Generic[T]):
    """The writable side, owned by an informer."""

    def __init__(self) -> None:
        self.objects: dict[ObjectName, T] = {}
        self._functions: dict[str, IndexFunction[T]] = {NAMESPACE: lambda obj: (obj.metadata.namespace,)}
        # Dictionaries instead of sets keep the order of arrival, so that lists are stable.
        self._indexes: dict[str, dict[str, dict[ObjectName, None]]] = {NAMESPACE: {}}

    def add_index(self, name: str, function: IndexFunction[T]) -> None:
        """File every object, present and future, under `function(obj)`; a second call with the name is ignored."""
        if name in self._functions:
            return
        self._functions[name] = function
        index: dict[str, dict[ObjectName, None]] = {}
        for key, obj in self.objects.items():
            for value in function(obj):
                index.setdefault(value, {})[key] = None
        self._indexes[name] = index

    def put(self, key: ObjectName, obj: T) -> None:
        """Add or replace."""
        old = self.objects.get(key)
        self.objects[key] = obj
        for name, function in self._functions.items():
            index = self._indexes[name]
            after = tuple(function(obj))
            if old is not None:
                before = tuple(function(old))
                if before == after:
                    continue
                _unfile(index, before, key)
            for value in after:
                index.setdefault(value, {})[key] = None

    def remove(self, key: ObjectName) -> T | None:
        """Take an object out; None when it was not there."""
        old = self.objects.pop(key, None)
        if old is not None:
            for name, function in self._functions.items():
                _unfile(self._indexes[name], function(old), key)
        return old

    def filed(self, name: str, value: str) -> list[T]:
        """The objects filed under `value` of an index. Raises KeyError for an index that does not exist."""
        return [self.objects[key] for key in self._indexes[name].get(value, ())]

    def values(self, name: str) -> list[str]:
        """The values of an index that have objects."""
        return list(self._indexes[name])


class Lister(Generic[T]):
    """The readable side: what everyone else gets. Reads are immediate and may lag the server."""

    __slots__ = ("_indexer",)

    def __init__(self, indexer: Indexer[T]) -> None:
        self._indexer = indexer

    def __len__(self) -> int:
        return len(self._indexer.objects)

    def get(self, key: ObjectName) -> T | None:
        """One object, or None."""
        return self._indexer.objects.get(key)

    def list(self, namespace: str = "", selector: Selector | None = None) -> builtins.list[T]:
        """The objects of a namespace ("" is all of them) whose labels match."""
        found = self._indexer.filed(NAMESPACE, namespace) if namespace else list(self._indexer.objects.values())
        if selector is None:
            return found
        return [obj for obj in found if selector.matches(dict(obj.metadata.labels))]

    def by_index(self, name: str, value: str) -> builtins.list[T]:
        """The objects filed under `value`. Raises KeyError for an index that was not added."""
        return self._indexer.filed(name, value)

    def index_values(self, name: str) -> builtins.list[str]:
        """The values of an index that have objects."""
        return self._indexer.values(name)


def _unfile(index: dict[str, dict[ObjectName, None]], values: Iterable[str], key: ObjectName) -> None:
    for value in values:
        keys = index.get(value)
        if keys is not None:
            keys.pop(key, None)
            if not keys:
                del index[value]
