"""Annotations, host names, and rules of Gateway API routes."""

from __future__ import annotations

import pytest

from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.networking.v1 import Ingress, IngressClass, IngressClassSpec, IngressSpec
from tiphys.client.cache import Indexer, Lister
from tiphys.ingress.annotations import PREFIX, wishes_of
from tiphys.ingress.gateway.hostnames import breadth, common, common_of_all
from tiphys.ingress.gateway.rules import Grants, routes_of, seconds
from tiphys.ingress.gateway.types import (
    FieldMatch,
    Header,
    HeaderFilter,
    HTTPRoute,
    RouteFilter,
    RouteMatch,
    RouteRule,
    RouteSpec,
)
from tiphys.ingress.ingresses import CONTROLLER, expression_problem, is_ours
from tiphys.ingress.model import Options
from tiphys.ingress.services import Services


def test_annotations_become_values_and_mistakes_are_named() -> None:
    found = wishes_of(
        {
            f"{PREFIX}proxy-body-size": "8m",
            f"{PREFIX}proxy-read-timeout": "30",
            f"{PREFIX}backend-protocol": "grpc",
            f"{PREFIX}whitelist-source-range": "10.1.2.3/8, ::1",
            f"{PREFIX}affinity": "cookie",
            f"{PREFIX}session-cookie-name": "S",
            f"{PREFIX}ssl-redirect": "false",
            f"{PREFIX}permanent-redirect": "https://x",
            f"{PREFIX}permanent-redirect-code": "308",
            "other/annotation": "x",
        }
    )
    assert found.options == Options(None, 30.0, None, 8 << 20, "GRPC", ("10.0.0.0/8", "::1/128"), "S")
    assert (found.ssl_redirect, found.redirect_to, found.redirect_code) == (False, "https://x", 308)
    assert found.problems == []
    wrong = {"proxy-body-size": "x", "ssl-redirect": "maybe", "rewrite-target": "x", "whitelist-source-range": "me"}
    assert len(wishes_of({PREFIX + key: value for key, value in wrong.items()}).problems) == len(wrong)
    assert wishes_of({f"{PREFIX}auth-type": "basic"}).problems == [f"annotation {PREFIX}auth-type is not supported"]
    assert wishes_of({f"{PREFIX}session-cookie-name": "S"}).options == Options()


def test_control_characters_of_one_are_nobody_elses_trouble() -> None:
    found = wishes_of({f"{PREFIX}permanent-redirect": "https://x\nglobal", f"{PREFIX}upstream-vhost": "a\x00"})
    assert (found.redirect_to, found.upstream_host, len(found.problems)) == ("", "", 2)
    header = Header(name="X", value="a\nglobal")
    modifier = HeaderFilter(set=(header,))
    filtered = RouteRule(filters=(RouteFilter(type="RequestHeaderModifier", request_header_modifier=modifier),))
    matched = RouteRule(matches=(RouteMatch(headers=(FieldMatch(name="X", value="a\n"),)),))
    services = Services(Lister(Indexer()), Lister(Indexer()))
    for rule, statuses in ((filtered, [500]), (matched, [])):
        made = routes_of(HTTPRoute(spec=RouteSpec(rules=(rule,))), services, Grants(()))
        assert "control characters" in made.unsupported
        assert [route.action.status for route in made.routes] == statuses
        assert all(not route.action.request_headers for route in made.routes)


def test_a_class_decides_whose_an_ingress_is() -> None:
    classes = {
        "mine": IngressClass(spec=IngressClassSpec(controller=CONTROLLER)),
        "theirs": IngressClass(spec=IngressClassSpec(controller="else")),
    }
    legacy = Ingress(metadata=ObjectMeta(annotations={"kubernetes.io/ingress.class": "mine"}))
    assert is_ours(Ingress(spec=IngressSpec(ingress_class_name="mine")), classes)
    assert is_ours(legacy, classes)
    assert not is_ours(Ingress(spec=IngressSpec(ingress_class_name="theirs")), classes)
    assert not is_ours(Ingress(spec=IngressSpec(ingress_class_name="absent")), classes)
    assert not is_ours(Ingress(), classes)


@pytest.mark.parametrize(
    ("listener", "route", "shared"),
    [
        ("", "a.example", "a.example"),
        ("a.example", "", "a.example"),
        ("*.example", "a.example", "a.example"),
        ("*.example", "a.b.example", "a.b.example"),
        ("*.example", "example", None),
        ("a.example", "*.example", "a.example"),
        ("*.example", "*.b.example", "*.b.example"),
        ("*.b.example", "*.example", "*.b.example"),
        ("*.b.example", "*.c.example", None),
        ("a.example", "b.example", None),
        ("", "", ""),
    ],
)
def test_what_host_names_have_in_common(listener: str, route: str, shared: str | None) -> None:
    assert common(listener, route) == shared


def test_the_narrowest_name_a_route_asks_for_counts() -> None:
    assert common_of_all("a.example", ["*.example", "A.example"]) == {"a.example": "a.example"}
    assert common_of_all("", []) == {"": ""}
    names = ["", "*.example", "a.b.example", "*.b.example"]
    assert sorted(names, key=breadth) == ["a.b.example", "*.b.example", "*.example", ""]


def test_durations_and_expressions() -> None:
    assert [seconds(text) for text in ("1h30m", "10s", "500ms", "0s")] == [5400, 10, 0.5, 0]
    assert expression_problem("/a(/|$)(.*)") == ""
    assert expression_problem("/a(") and expression_problem("/a\n") and expression_problem("/" + "a" * 2000)
