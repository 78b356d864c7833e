"""Bases of most strategies: columns from the shared table, and a status the server starts.

`TableStrategy` looks its columns up in `tables.py`. `StatusStrategy` also says what `status` a new object begins with.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

from tiphys.api.table import Resource
from tiphys.apiserver.registry.strategy import Object, RequestContext, Strategy
from tiphys.apiserver.registry.tables import columns_of


class TableStrategy(Strategy):
    """A strategy whose columns stand in the table of columns."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource)
        self.columns = columns_of(resource.group, resource.plural)


class StatusStrategy(TableStrategy):
    """A strategy that gives a new object its first status, whatever the client sent."""

    initial_status: ClassVar[Mapping[str, Any]] = {}

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        obj["status"] = deepcopy(dict(self.initial_status))


def name_of(obj: Object) -> str:
    """metadata.name."""
    name: str = obj["metadata"].get("name", "")
    return name


def status_of(obj: Object) -> Object:
    """`status`, an empty one when absent; not to be changed."""
    status: Object = obj.get("status") or {}
    return status


def spec_of(obj: Object) -> Object:
    """`spec`, an empty one when absent; not to be changed."""
    spec: Object = obj.get("spec") or {}
    return spec
