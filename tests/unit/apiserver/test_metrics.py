"""What requests are counted as."""

from __future__ import annotations

import pytest

from tiphys.apiserver.endpoints.request_info import parse_request_info
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Response, Stream, StreamResponse
from tiphys.apiserver.metrics import RequestMetrics
from tiphys.apiserver.waits import take_waited, waited
from tiphys.base.metrics import Registry

PODS = "/api/v1/namespaces/default/pods"


def counted(
    method: str, target: str, *, status: int = 200, kind: str = "application/json", seconds: float = 0.01
) -> str:
    """What is exposed after one request."""
    registry = Registry()
    metrics = RequestMetrics(registry)
    request = Request(method, target, {"content-type": kind})
    info = parse_request_info(method, request.path, request.query)
    metrics.observe(request, info, Response(status, b"x" * 1500), seconds)
    return registry.expose().decode()


def series(verb: str, scope: str, dry: str = "", code: int = 200, subresource: str = "") -> str:
    return (
        f'apiserver_request_total{{verb="{verb}",dry_run="{dry}",group="",version="v1",resource="pods",'
        f'subresource="{subresource}",scope="{scope}",component="apiserver",code="{code}"}} 1'
    )


@pytest.mark.parametrize(
    ("method", "target", "kind", "expected"),
    [
        ("GET", f"{PODS}/a", "", series("GET", "resource")),
        ("GET", PODS, "", series("LIST", "namespace")),
        ("GET", "/api/v1/pods", "", series("LIST", "cluster")),
        ("POST", PODS, "application/json", series("POST", "resource")),
        ("POST", f"{PODS}?dryRun=All", "application/json", series("POST", "resource", "All")),
        ("PUT", f"{PODS}/a/status", "application/json", series("PUT", "resource", subresource="status")),
        ("PATCH", f"{PODS}/a", "application/merge-patch+json", series("PATCH", "resource")),
        ("PATCH", f"{PODS}/a", "application/apply-patch+yaml", series("APPLY", "resource")),
        ("DELETE", f"{PODS}/a", "", series("DELETE", "resource")),
        ("DELETE", PODS, "", series("DELETECOLLECTION", "namespace")),
        ("GET", f"{PODS}/a/log", "", series("CONNECT", "resource", subresource="log")),
    ],
)
def test_requests_are_told_apart_as_upstream_does(method: str, target: str, kind: str, expected: str) -> None:
    assert expected in counted(method, target, kind=kind).splitlines()


def test_paths_that_anybody_may_make_up_are_not_counted() -> None:
    assert 'subresource="/readyz"' in counted("GET", "/readyz")
    assert "apiserver_request_total" not in counted("GET", "/made/up")


def test_sizes_are_of_reads() -> None:
    assert 'apiserver_response_sizes_bucket{verb="GET",group="",version="v1",resource="pods",' in counted(
        "GET", f"{PODS}/a"
    )
    assert "apiserver_response_sizes" not in counted("DELETE", f"{PODS}/a")


def test_waiting_for_others_is_not_the_servers_time() -> None:
    registry = Registry()
    metrics = RequestMetrics(registry)
    request = Request("POST", PODS, {})
    info = parse_request_info("POST", PODS, {})
    metrics.observe(request, info, Response(201), 0.03)
    waited(1.0)
    waited(0.5)
    metrics.observe(request, info, Response(201), 1.75)
    assert take_waited() == 0
    text = registry.expose().decode()
    labels = 'group="",version="v1",resource="pods",subresource="",scope="resource",component="apiserver"'
    sli = f'apiserver_request_sli_duration_seconds_bucket{{verb="POST",{labels}'
    whole = f'apiserver_request_duration_seconds_bucket{{verb="POST",dry_run="",{labels}'
    assert f'{sli},le="0.05"}} 1\n' in text
    assert f'{sli},le="0.4"}} 2\n' in text
    assert f'{sli},le="+Inf"}} 2\n' in text
    assert f'{whole},le="1.5"}} 1\n' in text
    assert f'{whole},le="2"}} 2\n' in text
    assert 'apiserver_request_sli_duration_seconds_sum{verb="POST"' in text
    assert 'le="0.005"' not in text.split("apiserver_request_sli_duration_seconds", 1)[1]


async def test_what_lasts_is_counted_while_it_does() -> None:
    registry = Registry()
    metrics = RequestMetrics(registry)
    request = Request("GET", f"{PODS}?watch=1", {})
    info = parse_request_info("GET", PODS, {"watch": ["1"]})
    seen: list[str] = []

    async def run(stream: Stream) -> None:
        seen.append(registry.expose().decode())

    answer = StreamResponse(run)
    metrics.observe(request, info, answer, 0.01)
    await answer.run(None)  # type: ignore[arg-type]
    labels = 'group="",version="v1",resource="pods",subresource="",scope="namespace",component="apiserver"'
    name = f'apiserver_longrunning_requests{{verb="WATCH",{labels}}}'
    assert f"{name} 1\n" in seen[0]
    assert f"{name} 0\n" in registry.expose().decode()


def test_requests_the_server_gives_up_are_counted() -> None:
    registry = Registry()
    metrics = RequestMetrics(registry)
    request = Request("POST", PODS, {})
    metrics.terminated(request, parse_request_info("POST", PODS, {}), 429)
    metrics.deprecated(parse_request_info("GET", "/api/v1/namespaces/default/endpoints/a", {}))
    text = registry.expose().decode()
    assert 'apiserver_request_terminations_total{verb="POST"' in text
    assert 'component="apiserver",code="429"} 1' in text
    assert (
        'apiserver_requested_deprecated_apis{group="",version="v1",resource="endpoints",subresource="",'
        'removed_release=""} 1' in text
    )
