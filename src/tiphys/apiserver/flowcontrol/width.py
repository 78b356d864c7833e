"""How wide a request is: the seats it takes.

Reading many objects at once costs as much as many requests, and so does telling many watchers about a write.
https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#seats-occupied-by-a-request
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.http.request import Request

OBJECTS_PER_SEAT: Final = 100
WATCHERS_PER_SEAT: Final = 10
# A write to what hardly anybody watches is not charged for telling them.
MIN_WATCHERS: Final = 10
EVENT_SECONDS: Final = 0.005  # to tell ten watchers
MAX_LIST_SEATS: Final = 100
MAX_WRITE_SEATS: Final = 10
# No single request takes more than this part of its level.
LARGEST_PART: Final = 0.15
WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class Width(NamedTuple):
    """Seats while it is served, and seats for some seconds after."""

    seats: int = 1
    final_seats: int = 0
    latency: float = 0.0
    watchers: int = -1  # -1: it is no write


ONE: Final = Width()
ONE_WRITE: Final = Width(watchers=0)
# How many objects of a resource (group, resource, namespace), and how many watches of it there are.
Objects = Callable[[str, str, str], int]
Watchers = Callable[[str, str], int]


class Estimator:
    """Estimates widths from what the watch cache knows."""

    def __init__(self, objects: Objects, watchers: Watchers) -> None:
        self._objects = objects
        self._watchers = watchers

    def width(self, request: Request, info: RequestInfo, nominal: int) -> Width:
        """The width of a request at a level of so many seats."""
        verb = info.verb
        if verb == "get" or not info.is_resource:
            return ONE
        if verb == "list" or verb == "watch":
            return self._read(request, info, nominal)
        return self._write(info, nominal) if verb in WRITES else ONE

    def _read(self, request: Request, info: RequestInfo, nominal: int) -> Width:
        if info.name:  # a field selector names the object
            return ONE
        has_query = bool(request.raw_query)
        if info.verb == "watch" and not (has_query and request.parameter("sendInitialEvents") == "true"):
            return ONE
        count = self._objects(info.api_group, info.resource, info.namespace)
        if count <= OBJECTS_PER_SEAT:
            return ONE
        limit = request.parameter("limit") if has_query else ""
        selects = has_query and (request.parameter("labelSelector") or request.parameter("fieldSelector"))
        # With a selector all objects are looked at, whatever the limit.
        if limit.isdecimal() and int(limit) and not selects:
            count = min(count, int(limit))
        return Width(min(math.ceil(count / OBJECTS_PER_SEAT), _most(nominal, MAX_LIST_SEATS)))

    def _write(self, info: RequestInfo, nominal: int) -> Width:
        watchers = self._watchers(info.api_group, info.resource)
        if watchers < MIN_WATCHERS:
            return ONE_WRITE if not watchers else Width(watchers=watchers)
        wanted = math.ceil(watchers / WATCHERS_PER_SEAT)
        seats = min(wanted, _most(nominal, MAX_WRITE_SEATS))
        # Fewer seats are kept for longer: the work is the same.
        return Width(1, seats, EVENT_SECONDS * wanted / seats, watchers)


def _most(nominal: int, largest: int) -> int:
    return max(1, min(largest, math.ceil(nominal * LARGEST_PART)))
