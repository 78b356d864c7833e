"""Requests that schemathesis makes from the served OpenAPI documents, good and spoiled, never break the server.

Short by default; TIPHYS_FUZZ_SECONDS=3600 makes it run that long instead.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator
from random import Random
from typing import Any, Final

import pytest

schemathesis: Any = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402

from .fuzzing import TIMEOUT, Reply, Target, judge, running_target  # noqa: E402

SECONDS: Final = float(os.environ.get("TIPHYS_FUZZ_SECONDS", "0"))
OPERATIONS: Final = 24  # tried when it is not run for a time
NAMESPACE: Final = "d"


@pytest.fixture(scope="module", autouse=True)
def many_headers() -> Iterator[None]:
    """A hundred warnings and the other headers are more than Python's client reads by default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http.client, "_MAXHEADERS", 500)
        yield


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with running_target() as found:
        for path, name in (
            ("/api/v1/namespaces", NAMESPACE),
            (f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", "default"),
        ):
            found.ask("POST", path, json.dumps({"metadata": {"name": name}}).encode(), Content_Type="application/json")
        yield found


def documents(target: Target) -> list[Any]:
    """Every document of `/openapi/v3`, as schemathesis reads it."""
    paths = json.loads(target.ask("GET", "/openapi/v3").body)["paths"]
    found = [json.loads(target.ask("GET", one["serverRelativeURL"]).body) for one in paths.values()]
    return [schemathesis.openapi.from_dict(document) for document in found if document.get("paths")]


def operations(target: Target, rng: Random) -> Iterator[Any]:
    """Operations in random order, without an end; those of a watch only where they end by themselves."""
    known = [one.ok() for document in documents(target) for one in document.get_all_operations()]
    known = [one for one in known if "/watch/" not in one.path]
    assert len(known) > 600
    while True:
        yield from rng.sample(known, len(known))


def send(target: Target, case: Any, rng: Random) -> None:
    """Sends what was generated, most of it to a namespace that is there, and judges the answer."""
    if "namespace" in (case.path_parameters or {}) and rng.random() < 0.8:
        case.path_parameters["namespace"] = NAMESPACE
    if "watch" in (case.query or {}):  # an empty one is a watch as well
        case.query["timeoutSeconds"] = 1
    began = time.monotonic()
    answer = case.call(base_url=f"http://{target.host}:{target.port}", timeout=TIMEOUT)
    target.answers[answer.status_code] += 1
    target.slowest = max(target.slowest, time.monotonic() - began)
    judge(Reply(answer.status_code, (answer.headers.get("content-type") or [""])[0], answer.content))


def attempt(target: Target, operation: Any, mode: Any, rng: Random) -> None:
    """A few requests for one operation, as its document wants them or not."""

    @settings(
        max_examples=5 if SECONDS else 2,
        deadline=None,
        database=None,
        derandomize=not SECONDS,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def several(case: Any) -> None:
        send(target, case, rng)

    several()


# Hypothesis sees numbers drawn from `random` while it makes a request: the server's, in another thread.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
def test_requests_made_from_the_openapi_documents(target: Target) -> None:
    rng = Random(7 if not SECONDS else None)
    until = time.monotonic() + SECONDS
    for done, operation in enumerate(operations(target, rng)):
        if done >= OPERATIONS and time.monotonic() >= until:
            break
        attempt(target, operation, GenerationMode.POSITIVE, rng)
        if operation.body or operation.query or operation.path_parameters:
            attempt(target, operation, GenerationMode.NEGATIVE, rng)
    assert target.ask("GET", "/livez").body == b"ok"
    assert target.errors == []
    assert target.answers.total() > OPERATIONS
    if SECONDS:
        print(f"\n{target.figures()}")
