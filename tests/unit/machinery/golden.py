"""Recorded conversations with a real control plane, as steps; none where the recordings are not at hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.shared_data import DATA

GOLDEN = DATA / "golden"
ROUNDTRIP = DATA / "roundtrip"

# What a placeholder of a recorded answer stands for when it has to be a real value.
_PLACEHOLDERS = {"time": "2026-01-01T00:00:00Z", "port": 30000, "num": 5}


class Step(NamedTuple):
    """One request with its answer; `content_type` without parameters."""

    case: str
    index: int
    method: str
    path: str
    query: dict[str, str]
    content_type: str
    body: Any
    status: int
    answer: Any
    warnings: list[str]
    setup: bool

    def __str__(self) -> str:
        return f"{self.case}-{self.index}"


def cases(pattern: str) -> list[Path]:
    """The recorded cases of a pattern such as `apply/*`."""
    return sorted(GOLDEN.glob(f"{pattern}.json"))


def steps(path: Path) -> Iterator[Step]:
    """The steps of a case that have an answer."""
    for index, step in enumerate(json.loads(path.read_bytes())["steps"]):
        request, response = step.get("request"), step.get("response") or {}
        if request is None:
            continue
        headers = request.get("headers") or {}
        yield Step(
            path.stem,
            index,
            request["method"],
            request["path"],
            request.get("query") or {},
            headers.get("Content-Type", "application/json").partition(";")[0],
            request.get("body"),
            response.get("status", 0),
            filled(response.get("body")),
            (response.get("headers") or {}).get("Warning") or [],
            bool(step.get("setup") or step.get("cleanup")),
        )


def filled(value: Any) -> Any:
    """The value with its placeholders for times and numbers filled in."""
    if isinstance(value, dict):
        return {key: filled(one) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one) for one in value]
    if isinstance(value, str) and value.startswith("{{") and value.endswith("}}"):
        return _PLACEHOLDERS.get(value[2:-2].partition(":")[0], value)
    return value
