"""A cache that also knows this controller's own writes, before the watch has brought them back.

noted:  v1 @ 17                     lister: v1 @ 12, v2 @ 9
get(v1) = noted, until the informer has seen revision 17; then whatever the lister says
"""

from __future__ import annotations

import builtins
from typing import Generic, TypeVar

from tiphys.client import Object, SharedInformer, key_of
from tiphys.machinery.meta import ObjectName

T = TypeVar("T", bound=Object)


class Latest(Generic[T]):
    """Reads one kind; `note` what the server answered to a write."""

    def __init__(self, informer: SharedInformer[T]) -> None:
        self._informer = informer
        self._noted: dict[ObjectName, T] = {}

    def note(self, obj: T) -> T:
        """Remember the answer to a write until the informer has caught up with it; returns it."""
        if not self._informer.has_seen(obj.metadata.resource_version):
            self._noted[key_of(obj)] = obj
        return obj

    def get(self, key: ObjectName) -> T | None:
        """The newest known state of an object; None when it is not there."""
        self._forget_seen()
        return self._noted.get(key) or self._informer.lister.get(key)

    def list(self) -> builtins.list[T]:
        """The newest known state of every object."""
        self._forget_seen()
        if not self._noted:
            return self._informer.lister.list()
        known = {key_of(obj): obj for obj in self._informer.lister.list()}
        return list((known | self._noted).values())

    def _forget_seen(self) -> None:
        for key, obj in list(self._noted.items()):
            if self._informer.has_seen(obj.metadata.resource_version):
                del self._noted[key]
