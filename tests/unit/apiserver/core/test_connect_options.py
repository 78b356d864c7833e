from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest

from tiphys.apiserver.endpoints.connect import connect_options

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "pods/attach?container=c&stdin=true&stdout=false": (
        "attach",
        {"kind": "PodAttachOptions", "apiVersion": "v1", "stdin": True, "container": "c"},
    ),
    "pods/exec?command=ls&command=-l&tty=1&container=": (
        "exec",
        {"kind": "PodExecOptions", "apiVersion": "v1", "tty": True, "command": ["ls", "-l"]},
    ),
    "pods/portforward?ports=80,81&ports=82": (
        "portforward",
        {"kind": "PodPortForwardOptions", "apiVersion": "v1", "ports": [80, 81, 82]},
    ),
    "services/proxy?x=1": ("proxy", {"kind": "ServiceProxyOptions", "apiVersion": "v1", "path": "/a/b"}),
}


@pytest.mark.parametrize("asked", CASES)
def test_admission_sees_what_a_connection_is_asked_for_with(asked: str) -> None:
    resource, _, rest = asked.partition("/")
    name, _, query = rest.partition("?")
    api: Any = SimpleNamespace(
        info=SimpleNamespace(resource=resource, subresource=name),
        query=parse_qs(query, keep_blank_values=True),
        request=SimpleNamespace(raw_path=f"/api/v1/namespaces/d/{resource}/x/{name}/a/b", raw_query=query),
    )
    assert connect_options(api) == CASES[asked][1]
