"""Groups that another server answers for: over two real servers in this process, TLS and all."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.apiserver.cluster import Cluster, secured_cluster
from tests.integration.apiserver.extension import AGGREGATED, Extension, extension_server
from tests.integration.apiserver.server import Api
from tiphys.apiserver.pki import Authority

APISERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
NAME = "v1.wardle.example.com"
WARDLE = "/apis/wardle.example.com/v1"
FLUNDERS = f"{WARDLE}/namespaces/d/flunders"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


class Pair:
    """The two servers; `serve` starts the extension behind the Service d/api, which is where `register` points."""

    def __init__(self, cluster: Cluster, directory: Path, stack: AsyncExitStack) -> None:
        self.cluster = cluster
        self.api: Api = cluster.api
        self.extension = Extension()
        self.authority = Authority.create("extension-ca")
        self._directory = directory
        self._stack = stack

    async def serve(self, *names: str, authority: Authority | None = None) -> None:
        """Start it with a certificate for `names`, and make a Service that leads to it."""
        made = extension_server(
            self.extension, authority or self.authority, list(names or ("api.d.svc",)), self._directory
        )
        await self._stack.enter_async_context(made)
        await self.service(type="ExternalName", externalName="localhost")

    async def stop(self) -> None:
        await self._stack.aclose()

    async def service(self, **spec: Any) -> None:
        await self.api.post("/api/v1/namespaces/d/services", {"metadata": {"name": "api"}, "spec": spec})
        assert self.api.status == 201

    async def register(self, version: str = "v1", **spec: Any) -> None:
        given = {
            "group": self.extension.group,
            "version": version,
            "groupPriorityMinimum": 2000,
            "versionPriority": 15,
            "caBundle": base64.b64encode(self.authority.pem).decode(),
            "service": {"namespace": "d", "name": "api", "port": self.extension.port or 443},
        }
        spec = {key: value for key, value in (given | spec).items() if value is not None}
        await self.api.post(APISERVICES, {"metadata": {"name": f"{version}.{self.extension.group}"}, "spec": spec})
        assert self.api.status == 201

    async def condition(self, reason: str, name: str = NAME) -> dict[str, str]:
        """The condition Available, once it has this reason."""

        async def found() -> Any:
            status = (await self.api.get(f"{APISERVICES}/{name}")).get("status") or {}
            return next((one for one in status.get("conditions") or () if one["reason"] == reason), None)

        return dict(await eventually(found))


async def eventually(look: Callable[[], Awaitable[Any]]) -> Any:
    """What `look` returns, once that is true."""
    async with asyncio.timeout(20):
        while not (found := await look()):  # noqa: ASYNC110  # the other side is a server
            await asyncio.sleep(0.02)
    return found


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    front_proxy = Authority.create("front-proxy-ca")
    (tmp_path / "front-proxy-ca.crt").write_bytes(front_proxy.pem)
    client = front_proxy.client("front-proxy-client")
    (tmp_path / "proxy.crt").write_bytes(client.certificate)
    (tmp_path / "proxy.key").write_bytes(client.key)
    identity: dict[str, Any] = {
        "proxy_client_certificate": tmp_path / "proxy.crt",
        "proxy_client_key": tmp_path / "proxy.key",
    }
    async with secured_cluster(tmp_path, **identity) as cluster, AsyncExitStack() as stack:
        yield Pair(cluster, tmp_path, stack)


@pytest.fixture
async def served(pair: Pair) -> Pair:
    await pair.serve()
    await pair.register()
    await pair.condition("Passed")
    return pair


# --- requests -------------------------------------------------------------------------------------
async def test_requests_are_passed_on_with_who_is_asking(served: Pair) -> None:
    api, extension = served.api, served.extension
    path = f"{FLUNDERS}/a%2Fb%20c?x=1&y=2"
    found = await api.get(path, Authorization="", X_Remote_User="evil", X_Remote_Group="evil")
    # What was authorized is a subresource: it is one for the extension server too.
    assert (api.status, found["path"]) == (200, f"{FLUNDERS}/a/b%20c?x=1&y=2")
    asked = extension.about("/flunders")[-1]
    assert asked.proxy == "front-proxy-client"
    assert asked.headers["x-remote-user"] == "root"
    assert asked.headers["x-remote-group"] == "system:masters, system:authenticated"
    assert asked.headers["x-remote-extra-authentication.kubernetes.io%2fcredential-id"].startswith("X509SHA256=")
    assert asked.headers["x-forwarded-for"] == "127.0.0.1"
    assert "authorization" not in asked.headers
    found = await api.post(FLUNDERS, {"kind": "Flunder"})
    assert (found["method"], json.loads(found["body"])) == ("POST", {"kind": "Flunder"})
    await api.raw("HEAD", f"{FLUNDERS}/a")
    assert (api.status, extension.about("/flunders")[-1].method) == (200, "HEAD")
    await api.get(WARDLE)  # the connection is still good


async def test_impersonation_and_authorization_come_first(served: Pair) -> None:
    api, asked = served.api, len(served.extension.about("/flunders"))
    refused = await api.get(f"{FLUNDERS}/a", Impersonate_User="bob")
    assert refused["message"].startswith('flunders.wardle.example.com "a" is forbidden: User "bob" cannot get resource')
    assert (api.status, len(served.extension.about("/flunders"))) == (403, asked)
    rule = {"apiGroups": ["wardle.example.com"], "resources": ["flunders"], "verbs": ["get"]}
    await api.post(f"{RBAC}/clusterroles", {"metadata": {"name": "r"}, "rules": [rule]})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}
    binding = {"metadata": {"name": "r"}, "roleRef": reference, "subjects": [subject]}
    await api.post(f"{RBAC}/clusterrolebindings", binding)
    await api.get(f"{FLUNDERS}/a", Impersonate_User="bob", Impersonate_Group="g")
    headers = served.extension.about("/flunders")[-1].headers
    assert (api.status, headers["x-remote-user"]) == (200, "bob")
    assert headers["x-remote-group"] == "g, system:authenticated"
    assert not [name for name in headers if name.startswith("impersonate")]


async def test_watches_arrive_piece_by_piece(served: Pair) -> None:
    async with served.api.session.get(f"{FLUNDERS}?watch=1") as answer:
        first = await answer.content.readline()
        assert not answer.content.at_eof()
        rest = (await answer.read()).splitlines()
    assert json.loads(first) == {"type": "ADDED", "object": {"number": 0}}
    assert [json.loads(line)["object"]["number"] for line in rest] == [1, 2]


async def test_upgrades_are_passed_through(served: Pair) -> None:
    async with served.api.session.ws_connect(f"{FLUNDERS}/a/ws") as socket:
        await socket.send_str("ahoy")
        assert (await socket.receive(timeout=5)).data == "AHOY"


async def test_redirects_are_not(served: Pair) -> None:
    text = await served.api.raw("GET", f"{FLUNDERS}/moved")
    assert served.api.status == 502
    assert text == b"the backend attempted to redirect this request, which is not permitted"


async def test_a_client_that_leaves_a_quiet_request_leaves_nothing_behind(served: Pair) -> None:
    with pytest.raises(TimeoutError):
        async with served.api.session.get(f"{FLUNDERS}/slow", timeout=aiohttp.ClientTimeout(total=0.2)):
            pass
    await served.api.get(f"{FLUNDERS}/a")
    assert served.api.status == 200


# --- availability ---------------------------------------------------------------------------------
async def test_what_is_missing_is_told_link_by_link(pair: Pair) -> None:
    api = pair.api
    await pair.register()
    found = await pair.condition("ServiceNotFound")
    assert (found["status"], found["message"]) == ("False", 'service/api in "d" is not present')
    assert await api.raw("GET", f"{FLUNDERS}/a") == b"service unavailable\n"
    assert (api.status, api.headers["Content-Type"]) == (503, "text/plain; charset=utf-8")
    await pair.service(ports=[{"port": 80}])
    assert (await pair.condition("ServicePortError"))["message"] == 'service/api in "d" is not listening on port 443'
    await api.merge("/api/v1/namespaces/d/services/api", {"spec": {"ports": [{"port": 443, "name": "https"}]}})
    await pair.condition("EndpointsNotFound")
    part = {
        "metadata": {"name": "api-1", "labels": {"kubernetes.io/service-name": "api"}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": 443}],
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": False}}],
    }
    await api.post("/apis/discovery.k8s.io/v1/namespaces/d/endpointslices", part)
    await pair.condition("MissingEndpoints")
    table = await api.get(APISERVICES, Accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    rows = {row["cells"][0]: row["cells"][1:3] for row in table["rows"]}
    assert rows[NAME] == ["d/api", "False (MissingEndpoints)"]


@pytest.mark.parametrize("wrong", ["authority", "name", "health"])
async def test_a_server_that_cannot_be_trusted_or_is_ill_is_not_used(pair: Pair, wrong: str) -> None:
    pair.extension.healthy = wrong != "health"
    authority = Authority.create("another") if wrong == "authority" else None
    await pair.serve("other.svc" if wrong == "name" else "api.d.svc", authority=authority)
    await pair.register()
    message = (await pair.condition("FailedDiscoveryCheck"))["message"]
    where = f"https://localhost:{pair.extension.port}{WARDLE}"
    assert message.startswith(f"failing or missing response from {where}: ")
    assert {
        "authority": "x509: certificate signed by unknown authority",
        "name": "x509: certificate is not valid for api.d.svc",
        "health": f"bad status from {where}: 500",
    }[wrong] in message
    await pair.api.raw("GET", f"{FLUNDERS}/a")
    assert pair.api.status == 503
    assert not pair.extension.about("/flunders")


async def test_certificates_need_not_be_checked(pair: Pair) -> None:
    await pair.serve("other.svc", authority=Authority.create("another"))
    await pair.register(caBundle=None, insecureSkipTLSVerify=True)
    await pair.condition("Passed")


async def test_a_server_that_goes_is_noticed_by_the_first_request(served: Pair) -> None:
    await served.stop()
    text = await served.api.raw("GET", f"{FLUNDERS}/a")
    assert served.api.status == 503
    assert text.startswith(b"error trying to reach service: dial tcp")
    assert text.endswith(b": connect: connection refused\n")
    found = await served.condition("FailedDiscoveryCheck")
    assert found["status"] == "False"
    assert await served.api.raw("GET", f"{FLUNDERS}/a") == b"service unavailable\n"
    metrics = (await served.api.raw("GET", "/metrics")).decode()
    assert f'aggregator_unavailable_apiservice{{name="{NAME}"}} 1' in metrics
    counted = f'aggregator_unavailable_apiservice_total{{name="{NAME}",reason="FailedDiscoveryCheck"}} '
    assert counted in metrics


async def test_an_apiservice_can_become_local(served: Pair) -> None:
    await served.api.merge(f"{APISERVICES}/{NAME}", {"spec": {"service": None, "caBundle": None}})
    assert (await served.condition("Local"))["message"] == "Local APIServices are always available"
    assert await served.api.raw("GET", f"{FLUNDERS}/a") == b"404 page not found\n"


# --- discovery ------------------------------------------------------------------------------------
async def groups(api: Api) -> list[str]:
    return [group["name"] for group in (await api.get("/apis"))["groups"]]


async def entry(api: Api, group: str = "wardle.example.com") -> dict[str, Any] | None:
    document = await api.get("/apis", Accept=AGGREGATED)
    return next((one for one in document["items"] if one["metadata"]["name"] == group), None)


async def freshness(pair: Pair, wanted: str) -> dict[str, Any]:
    """The group's entry, once all its versions are `wanted`."""

    async def look() -> Any:
        found = await entry(pair.api)
        return found if found and {one["freshness"] for one in found["versions"]} == {wanted} else None

    return dict(await eventually(look))


@pytest.mark.parametrize("aggregated", [True, False], ids=["aggregated", "legacy"])
async def test_discovery_lists_what_the_server_serves(pair: Pair, aggregated: bool) -> None:
    pair.extension.aggregated = aggregated
    await pair.serve()
    await pair.register()
    await pair.condition("Passed")
    (version,) = (await freshness(pair, "Current"))["versions"]
    (resource,) = version["resources"]
    assert (resource["resource"], resource["scope"]) == ("flunders", "Namespaced")
    assert resource["responseKind"]["kind"] == "Flunder"
    group = await pair.api.get("/apis/wardle.example.com")
    assert group["preferredVersion"] == {"groupVersion": "wardle.example.com/v1", "version": "v1"}
    listed = await pair.api.get(WARDLE)
    assert [one["name"] for one in listed["resources"]] == ["flunders", "flunders/status"]
    assert WARDLE in (await pair.api.get("/"))["paths"]


async def test_a_server_that_is_gone_is_listed_as_stale(served: Pair) -> None:
    await freshness(served, "Current")
    await served.stop()
    await served.api.raw("GET", f"{FLUNDERS}/a")
    found = await freshness(served, "Stale")
    assert found["versions"] == [{"version": "v1", "freshness": "Stale"}]
    assert "wardle.example.com" in await groups(served.api)
    await served.api.delete(f"{APISERVICES}/{NAME}")

    async def gone() -> bool:
        return "wardle.example.com" not in await groups(served.api)

    await eventually(gone)
    assert await served.api.raw("GET", f"{FLUNDERS}/a") == b"404 page not found\n"


async def test_groups_and_versions_stand_by_priority(served: Pair) -> None:
    api = served.api
    order = await groups(api)
    assert order[:2] == ["apiregistration.k8s.io", "apps"]
    assert order[-1] == "wardle.example.com"
    served.extension.versions = ("v1", "v2")
    await served.register("v2", groupPriorityMinimum=17900, versionPriority=20)
    await served.condition("Passed", "v2.wardle.example.com")
    assert (await groups(api))[:2] == ["apiregistration.k8s.io", "wardle.example.com"]
    found = await api.get("/apis/wardle.example.com")
    assert [one["version"] for one in found["versions"]] == ["v2", "v1"]
    await freshness(served, "Current")


# --- custom resources -----------------------------------------------------------------------------
async def test_custom_resources_have_apiservices(pair: Pair) -> None:
    api = pair.api
    version = {"served": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    versions = [version | {"name": "v1", "storage": True}, version | {"name": "v1beta1", "storage": False}]
    names = {"plural": "boats", "kind": "Boat"}
    spec = {"group": "sea.com", "scope": "Namespaced", "names": names, "versions": versions}
    await api.post(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "boats.sea.com"},
            "spec": spec,
        },
    )
    found = await pair.condition("Local", "v1beta1.sea.com")
    assert found["status"] == "True"
    made = await api.get(f"{APISERVICES}/v1.sea.com")
    assert made["metadata"]["labels"] == {"kube-aggregator.kubernetes.io/automanaged": "true"}
    assert made["spec"] == {"group": "sea.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 100}
    await api.delete(f"{APISERVICES}/v1.sea.com")

    async def another() -> bool:
        found = (await api.get(f"{APISERVICES}/v1.sea.com")).get("metadata", {})
        return bool(found.get("uid", made["metadata"]["uid"]) != made["metadata"]["uid"])

    await eventually(another)
    await api.merge(f"{APISERVICES}/v1.sea.com", {"spec": {"versionPriority": 7}})

    async def mended() -> bool:
        return bool((await api.get(f"{APISERVICES}/v1.sea.com"))["spec"]["versionPriority"] == 100)

    await eventually(mended)
    await api.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/boats.sea.com")

    async def gone() -> bool:
        return not [one for one in (await api.get(APISERVICES))["items"] if "sea.com" in one["metadata"]["name"]]

    await eventually(gone)


# --- OpenAPI --------------------------------------------------------------------------------------
async def test_openapi_documents_are_one(served: Pair) -> None:
    api = served.api
    path, name = f"{WARDLE}/namespaces/{{namespace}}/flunders/{{name}}", "com.example.wardle.v1.Flunder"

    async def merged() -> Any:
        document = await api.get("/openapi/v2")
        return document if path in document["paths"] else None

    document = await eventually(merged)
    assert "/api/v1/pods" in document["paths"]
    meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    assert document["definitions"][name]["properties"]["metadata"] == {"$ref": f"#/definitions/{meta}_v2"}
    assert document["definitions"][f"{meta}_v2"]["description"] == "Metadata."
    packed = await api.raw("GET", "/openapi/v2", Accept="application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
    assert name.encode() in packed
    index = await api.get("/openapi/v3")
    place = WARDLE.removeprefix("/")
    assert index["paths"][place]["serverRelativeURL"] == f"/openapi/v3/{place}?hash=ABv1"
    own = await api.get(f"/openapi/v3/{place}")
    assert name in own["components"]["schemas"]
    assert served.extension.about(f"/openapi/v3/{place}")[-1].headers["x-remote-user"] == "root"
