"""How long a request may take: what it asks for, and upstream's minute."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest

from tiphys.apiserver.endpoints.handler import time_limit
from tiphys.apiserver.endpoints.request_info import parse_request_info
from tiphys.machinery.errors import BadRequestError


def limit(method: str, target: str) -> float | None:
    path, _, query = target.partition("?")
    found = parse_qs(query)
    request: Any = SimpleNamespace(method=method, raw_query=query, parameter=lambda name: (found.get(name) or [""])[0])
    return time_limit(request, parse_request_info(method, path, found))


@pytest.mark.parametrize(
    ("method", "target", "seconds"),
    [
        ("GET", "/api/v1/pods", None),
        ("GET", "/api/v1/pods?timeout=5s", 5.0),
        ("POST", "/api/v1/namespaces/a/pods", 60.0),
        ("POST", "/api/v1/namespaces/a/pods?timeout=2m", 60.0),
        ("POST", "/api/v1/namespaces/a/pods?timeout=0s", 60.0),
        ("POST", "/api/v1/namespaces/a/pods/b/exec", None),
        ("GET", "/api/v1/pods?watch=1&timeout=5s", None),
    ],
)
def test_limits(method: str, target: str, seconds: float | None) -> None:
    assert limit(method, target) == seconds


def test_a_bad_one() -> None:
    with pytest.raises(
        BadRequestError, match='invalid timeout specified in the request URL - time: invalid duration "foo"'
    ):
        limit("GET", "/api/v1/pods?timeout=foo")
