"""Gateway API objects, through the same proxies. The CRDs here say only where the kinds are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.cluster.harness import until
from tests.e2e.ingress.conftest import Site, tls_secret

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="nodes need root"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on this machine"),
]

CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {plural}.gateway.networking.k8s.io
  annotations: {{api-approved.kubernetes.io: https://github.com/kubernetes-sigs/gateway-api/pull/1}}
spec:
  group: gateway.networking.k8s.io
  names: {{kind: {kind}, plural: {plural}}}
  scope: {scope}
  versions:
  - name: {version}
    served: true
    storage: true
    subresources: {{status: {{}}}}
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
---
"""
KINDS = (
    ("GatewayClass", "gatewayclasses", "Cluster", "v1"),
    ("Gateway", "gateways", "Namespaced", "v1"),
    ("HTTPRoute", "httproutes", "Namespaced", "v1"),
    ("ReferenceGrant", "referencegrants", "Namespaced", "v1beta1"),
)
GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: tiphys}
spec: {controllerName: tiphys.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front}
spec:
  gatewayClassName: tiphys
  listeners:
  - {name: http, port: 80, protocol: HTTP, hostname: "*.gw.example"}
  - {name: alt, port: 8088, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - name: https
    port: 443
    protocol: HTTPS
    hostname: tls.gw.example
    tls: {certificateRefs: [{name: gw-tls}]}
  - {name: tcp, port: 9000, protocol: TCP}
"""


def route(name: str, spec: dict[str, Any], namespace: str = "default") -> str:
    """A manifest of an HTTPRoute at the Gateway."""
    given = {"parentRefs": [{"name": "front", "namespace": "default"}], **spec}
    return json.dumps(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": namespace},
            "spec": given,
        }
    )


def to(*services: str) -> list[dict[str, Any]]:
    """References to services, each as `name` or `name weight`."""
    found = []
    for service in services:
        name, _, weight = service.partition(" ")
        found.append({"name": name, "port": 80, **({"weight": int(weight)} if weight else {})})
    return found


def conditions(document: dict[str, Any]) -> dict[str, str]:
    return {each["type"]: f"{each['status']} {each['reason']}" for each in document.get("conditions", ())}


@pytest.fixture(scope="module")
def gateway(site: Site) -> Iterator[Site]:
    site.apply("".join(CRD.format(kind=k, plural=p, scope=s, version=v) for k, p, s, v in KINDS))
    site.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    site.apply(tls_secret("gw-tls", "tls.gw.example")[0])
    site.apply(GATEWAY)
    yield site
    site.kubectl("delete", "crd", *(f"{plural}.gateway.networking.k8s.io" for _, plural, _, _ in KINDS))


def test_routes_by_host_path_header_query_and_method(gateway: Site) -> None:
    rules = [
        {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": to("one")},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/p"}}], "backendRefs": to("two")},
        {
            "matches": [
                {"path": {"type": "PathPrefix", "value": "/p"}, "headers": [{"name": "X-Kind", "value": "one, of"}]},
                {"path": {"type": "PathPrefix", "value": "/p"}, "queryParams": [{"name": "q", "value": "a b"}]},
                {"path": {"type": "PathPrefix", "value": "/p"}, "method": "POST"},
            ],
            "backendRefs": to("one"),
        },
    ]
    gateway.apply(route("main", {"hostnames": ["a.gw.example", "other.example"], "rules": rules}))
    gateway.apply(route("wide", {"rules": [{"backendRefs": to("two")}]}))
    front = gateway.front
    until(lambda: front.ask("a.gw.example").app == "one", "the route", 30)
    until(lambda: front.ask("z.gw.example").app == "two", "the route without a name", 30)
    assert front.ask("a.gw.example", "/p/x").app == "two"
    assert front.ask("a.gw.example", "/p", X_Kind="one, of").app == "one"
    assert front.ask("a.gw.example", "/p", X_Kind="one").app == "two"
    assert front.ask("a.gw.example", "/p?r=1&q=a%20b").app == "one"
    assert front.ask("a.gw.example", "/p", method="POST").app == "one"
    assert front.ask("x.y.gw.example").app == "two"  # a wildcard of a listener has more than one label
    assert front.ask("other.example", port=8088).app == "one"
    assert front.ask("other.example").status == 404  # not this listener's


def test_filters_weights_and_references(gateway: Site) -> None:
    def changed(kind: str, name: str) -> dict[str, Any]:
        change = {"set": [{"name": "X-Set", "value": f"{name} 100%"}], "remove": ["X-Back"]}
        return {"type": kind, f"{kind[0].lower()}{kind[1:]}": change}

    def redirect(**values: Any) -> dict[str, Any]:
        return {"filters": [{"type": "RequestRedirect", "requestRedirect": values}]}

    def prefix(path: str) -> list[dict[str, Any]]:
        return [{"path": {"type": "PathPrefix", "value": path}}]

    whole = {"type": "ReplaceFullPath", "replaceFullPath": "/whole"}
    start = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}
    rules = [
        {
            "matches": prefix("/h"),
            "filters": [changed("RequestHeaderModifier", "up"), changed("ResponseHeaderModifier", "down")],
            "backendRefs": to("one"),
        },
        {
            "matches": prefix("/rw"),
            "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "inner.example", "path": start}}],
            "backendRefs": to("one"),
        },
        {"matches": prefix("/r1"), **redirect(scheme="https", statusCode=301)},
        {"matches": prefix("/r2"), **redirect(hostname="else.example", port=8443, path=start)},
        {"matches": prefix("/r3"), **redirect(path=whole)},
        {"matches": prefix("/w"), "backendRefs": to("one 9", "two 1")},
        {"matches": prefix("/gone"), "backendRefs": to("nobody")},
        {"matches": prefix("/mirror"), "filters": [{"type": "RequestMirror"}], "backendRefs": to("one")},
        {"matches": prefix("/far"), "backendRefs": [{"name": "web", "namespace": "far", "port": 80}]},
    ]
    gateway.apply(route("filters", {"hostnames": ["f.gw.example"], "rules": rules}))
    front = gateway.front
    until(lambda: front.ask("f.gw.example", "/h").app == "one", "the route", 30)
    answer = front.ask("f.gw.example", "/h", X_Set="mine", X_Back="gone")
    assert answer.said["headers"]["x-set"] == "up 100%" and "x-back" not in answer.said["headers"]
    assert answer.headers["x-set"] == "down 100%" and "x-back" not in answer.headers
    said = front.ask("f.gw.example", "/rw/a?b=c").said
    assert (said["path"], said["headers"]["host"]) == ("/new/a?b=c", "inner.example")
    assert front.ask("f.gw.example", "/r1/x?y").location == "https://f.gw.example/r1/x?y"
    assert front.ask("f.gw.example", "/r2/x").location == "http://else.example:8443/new/x"
    assert front.ask("f.gw.example", "/r3/x", port=8088).location == "http://f.gw.example:8088/whole"
    answers = [front.ask("f.gw.example", "/w").app for _ in range(100)]
    assert 80 <= answers.count("one") <= 99 and answers.count("two") >= 1
    assert [front.ask("f.gw.example", path).status for path in ("/gone", "/mirror", "/far")] == [500, 500, 500]
    status = until(lambda: gateway.cluster.get("httproute", "filters").get("status"), "the status", 30)
    parent = status["parents"][0]
    assert conditions(parent)["Accepted"] == "False UnsupportedValue"
    assert conditions(parent)["ResolvedRefs"] == "False BackendNotFound"


def test_tls_namespaces_and_statuses(gateway: Site) -> None:
    gateway.kubectl("create", "namespace", "elsewhere")
    gateway.apply(route("near", {"hostnames": ["tls.gw.example"], "rules": [{"backendRefs": to("one")}]}))
    far = {
        "hostnames": ["far.gw.example"],
        "rules": [{"backendRefs": [{"name": "one", "namespace": "default", "port": 80}]}],
    }
    gateway.apply(route("far", far, "elsewhere"))
    front = gateway.front
    until(lambda: front.ask("tls.gw.example", tls=True).app == "one", "TLS", 30)
    assert front.certificate("tls.gw.example") != front.certificate("far.gw.example")
    until(lambda: front.ask("far.gw.example", port=8088).status == 500, "a reference that nobody allowed", 30)
    grant = {
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "far", "namespace": "default"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "elsewhere"}],
            "to": [{"group": "", "kind": "Service"}],
        },
    }
    gateway.apply(json.dumps(grant))
    until(lambda: front.ask("far.gw.example", port=8088).app == "one", "the grant", 30)
    assert front.ask("far.gw.example").app != "one"  # that listener takes routes of its own namespace

    def listeners() -> dict[str, Any]:
        status = gateway.cluster.get("gateway", "front")["status"]
        return {each["name"]: each for each in status["listeners"]}

    # The far route is at the listener for all namespaces alone.
    until(lambda: listeners()["alt"]["attachedRoutes"] >= 2, "routes to be counted", 30)
    found = listeners()
    assert conditions(found["http"])["Programmed"] == "True Programmed"
    assert conditions(found["tcp"])["Accepted"] == "False UnsupportedProtocol"
    assert conditions(found["https"])["ResolvedRefs"] == "True ResolvedRefs"
    whole = gateway.cluster.get("gateway", "front")["status"]
    assert [each["value"] for each in whole["addresses"]] == sorted(front.addresses)
    assert conditions(whole)["Programmed"] == "True Programmed"
    accepted = conditions(gateway.cluster.get("gatewayclass", "tiphys")["status"])
    assert accepted == {"Accepted": "True Accepted"}
    gateway.kubectl("delete", "gateway", "front")
    until(lambda: front.ask("tls.gw.example", tls=True).status == 404, "the routes to go", 30)
