"""Replies made before: kept, encoded, while the cluster's data is what it was.

    (name, type) → Reply        all made at one version of `ClusterData`

A change of anything forgets everything: a denial names the zone's serial and may be of any name,
and to make a few hundred replies anew costs less than to know which of them a change concerns.
"""

from __future__ import annotations

from typing import Final

from tiphys.dns.kubernetes.data import ClusterData
from tiphys.dns.message import Query, Reply, encoded

# Records, and one more a reply: some 20 MB. Beyond that all are forgotten, since what fills them
# is somebody who asks a name after the other that does not exist.
CAPACITY: Final = 50_000


class KeptReplies:
    """See the module."""

    def __init__(self, data: ClusterData) -> None:
        self._data = data
        self._version = data.version
        self._replies: dict[tuple[str, int], Reply] = {}
        self._size = 0

    def get(self, query: Query) -> Reply | None:
        """The reply to an equal question; None where it has to be made."""
        if self._version != self._data.version:
            self._forget()
        return self._replies.get((query.name, query.type))

    def put(self, query: Query, reply: Reply) -> Reply:
        """Keep a reply just made of the data; returns it as `get` will."""
        size = 1 + len(reply.answers) + len(reply.authority) + len(reply.additional)
        if self._version != self._data.version or self._size + size > CAPACITY:
            self._forget()
        self._size += size
        reply = self._replies[query.name, query.type] = encoded(query, reply)
        return reply

    def _forget(self) -> None:
        self._version = self._data.version
        self._replies.clear()
        self._size = 0
