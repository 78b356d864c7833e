"""Strategies against recorded answers of a real API server, where a directory of them is at hand.

Every create of the areas `defaults` and `validation` goes through defaults, preparation and validation alone: no
server, no admission, no allocation, no expressions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.shared_data import DATA, needs_shared
from tiphys.api.schemas import schema_of
from tiphys.api.table import Resource, resource_by_path
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.registry.conversion import STORAGE_VERSIONS
from tiphys.apiserver.registry.strategies import strategy_for
from tiphys.apiserver.registry.strategy import RequestContext
from tiphys.apiserver.registry.validation.meta import validate_object_meta
from tiphys.machinery.errors import StatusError, invalid
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.normalize import normalize

Object = dict[str, Any]
DIRECTORY = DATA / "golden"
PLACEHOLDER = re.compile(r"\{\{[a-z]+(?::\d+)?\}\}")
# What needs more than a strategy: admission, allocation, compiled expressions.
ELSEWHERE = re.compile(
    r"forbidden: |failed to allocate|provided port|not configured|this cluster is not|when multiple IP families|"
    r"compilation failed|must evaluate to|admin access"
)


class NoObjects:
    """A reader of an empty cluster."""

    def get(self, group: str, resource: str, key: ObjectName) -> Object | None:
        return None

    def list(self, group: str, resource: str, namespace: str = "") -> list[Object]:
        return []


def cases() -> Iterator[Path]:
    for area in ("defaults", "validation"):
        yield from sorted(Path(DIRECTORY, area).glob("*.json"))


def creates(case: Object) -> Iterator[tuple[Resource, str, Object, Object]]:
    """(resource, namespace, request body, response) of every create a strategy alone can judge."""
    for step in case["steps"]:
        request, response = step["request"], step.get("response")
        wanted = response and response["status"] in (201, 422) and not step.get("setup")
        if (
            not wanted
            or request["method"] != "POST"
            or not isinstance(request.get("body"), dict)
            or request.get("query")
        ):
            continue
        parts = request["path"].strip("/").split("/")
        group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        resource = resource_by_path(group, version, rest[0])
        if len(rest) == 1 and resource is not None and (group, rest[0]) not in STORAGE_VERSIONS:
            yield resource, namespace, request["body"], response["body"]


def refusal(resource: Resource, namespace: str, body: Object) -> str:
    """The message of the refusal of a create; empty when it is accepted."""
    strategy = strategy_for(resource)
    obj = normalize(body, schema_of(resource.group, resource.version, resource.kind))
    metadata = obj.setdefault("metadata", {})
    strategy.default(obj)
    if resource.namespaced:
        metadata["namespace"] = namespace
    metadata["uid"] = "00000000-0000-0000-0000-000000000000"
    user = UserInfo("kubernetes-admin", groups=("system:masters",))
    ctx = RequestContext(user=user, now=datetime.now(UTC), reader=NoObjects(), namespace=namespace)
    try:
        strategy.prepare_for_create(ctx, obj)
    except StatusError as error:
        return error.message
    strict = strategy.strict_finalizers
    errors = validate_object_meta(metadata, resource.namespaced, strategy.name_rule, strict_finalizers=strict)
    errors += strategy.validate(obj)
    return invalid(resource.group_kind, metadata.get("name", ""), errors).message if errors else ""


def pattern(text: str) -> str:
    return ".*".join(re.escape(part) for part in PLACEHOLDER.split(text))


@needs_shared
@pytest.mark.parametrize("path", list(cases()) if DIRECTORY.is_dir() else [], ids=lambda path: path.stem)
def test_a_recorded_create_is_judged_as_recorded(path: Path) -> None:
    for resource, namespace, body, answer in creates(json.loads(path.read_text())):
        wanted = answer["message"] if answer["kind"] == "Status" else ""
        if not ELSEWHERE.search(wanted):
            assert re.fullmatch(pattern(wanted), refusal(resource, namespace, body), re.DOTALL), body
