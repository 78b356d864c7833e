"""The table of strategies as a whole: every stored resource works with next to nothing in its objects."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tiphys.api.table import RESOURCES, Resource
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.registry.strategies import STRATEGIES, strategy_for
from tiphys.apiserver.registry.strategy import RequestContext
from tiphys.machinery.meta import ObjectName

NOW = datetime(2024, 1, 1, tzinfo=UTC)
STORED = [one for one in RESOURCES if "watch" in one.verbs]


class NoObjects:
    """A reader of an empty cluster."""

    def get(self, group: str, resource: str, key: ObjectName) -> dict[str, Any] | None:
        return None

    def list(self, group: str, resource: str, namespace: str = "") -> list[dict[str, Any]]:
        return []


def bare() -> dict[str, Any]:
    return {"metadata": {"name": "x", "namespace": "n", "uid": "u"}}


def name(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}/{resource.version}"


@pytest.mark.parametrize("resource", STORED, ids=name)
def test_every_stored_resource_has_a_strategy(resource: Resource) -> None:
    assert (resource.group, resource.plural) in STRATEGIES


@pytest.mark.parametrize("resource", STORED, ids=name)
def test_a_row_has_a_cell_a_column(resource: Resource) -> None:
    strategy = strategy_for(resource)
    unnamed = resource.plural == "ipaddresses"  # upstream shows an age without a column for it
    assert len(strategy.row(bare(), NOW)) == len(strategy.columns) + unnamed


@pytest.mark.parametrize("resource", STORED, ids=name)
def test_an_empty_object_is_judged_and_never_breaks(resource: Resource) -> None:
    strategy = strategy_for(resource)
    ctx = RequestContext(user=UserInfo("me"), now=NOW, reader=NoObjects(), namespace="n", name="x")
    obj = bare()
    strategy.default(obj)
    once = repr(obj)
    strategy.default(obj)
    assert repr(obj) == once  # defaults are idempotent
    strategy.prepare_for_create(ctx, obj)
    strategy.validate(obj)
    strategy.warnings(obj, None)
    new = bare()
    strategy.default(new)
    strategy.prepare_for_update(ctx, new, obj)
    strategy.validate_update(new, obj)
    strategy.prepare_for_status_update(ctx, new, obj)
    strategy.validate_status_update(new, obj)
    fields = strategy.selectable_fields(obj)
    assert fields["metadata.name"] == "x"
    assert all(isinstance(value, str) for value in fields.values())
