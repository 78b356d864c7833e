"""The condition of flow schemas, by table."""

from typing import Any

import pytest

from tiphys.apiserver.bootstrap.flow_status import condition_to_set, dangling

NOW, THEN = "2024-01-02T00:00:00Z", "2024-01-01T00:00:00Z"


def schema(*conditions: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"priorityLevelConfiguration": {"name": "level"}}, "status": {"conditions": list(conditions)}}


@pytest.mark.parametrize(
    ("found", "levels", "status", "since"),
    [
        (schema(), {"level"}, "False", NOW),
        (schema(), set(), "True", NOW),
        (schema(dangling("level", True, THEN)), {"level"}, None, ""),
        (schema(dangling("level", False, THEN)), {"level"}, "False", NOW),
        # Another level that does not exist either: the words change, the time does not.
        (schema(dangling("before", False, THEN)), set(), "True", THEN),
        ({"spec": {}}, {"level"}, "True", NOW),
    ],
)
def test_condition(found: dict[str, Any], levels: set[str], status: str | None, since: str) -> None:
    condition = condition_to_set(found, levels, NOW)
    if status is None:
        assert condition is None
    else:
        assert condition is not None
        assert (condition["status"], condition["lastTransitionTime"]) == (status, since)
