from __future__ import annotations

from typing import Any

import pytest

from tiphys.apiserver.registry.admissionregistration.webhooks import service_errors
from tiphys.machinery.field import Path

SERVICE = {"name": "a", "namespace": "b", "port": 443}
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no path": (SERVICE, []),
    "an empty one": ({**SERVICE, "path": ""}, []),
    "the root": ({**SERVICE, "path": "/"}, []),
    "below": ({**SERVICE, "path": "/a/b/"}, []),
    "not from the root": (
        {**SERVICE, "path": "x"},
        [
            "service.path: Invalid value: \"x\": must start with a '/'",
            'service.path: Invalid value: "x": segment[0] may not be empty',
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_where_a_webhook_is(case: str) -> None:
    service, wanted = CASES[case]
    assert [str(error) for error in service_errors(service, Path("service"))] == wanted
