"""Webhooks: who is asked, by table; what their answers do; and one real call over TLS."""

import base64
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.unit.apiserver.admission.parts import Hooks, Objects, OneVersion, parts, run, write
from tiphys.api.table import resource_by_path
from tiphys.apiserver.admission.interface import AdmissionChain, Operation
from tiphys.apiserver.admission.webhooks.caller import HttpsCaller, endpoints_of, url_of
from tiphys.apiserver.admission.webhooks.interface import CallError
from tiphys.apiserver.admission.webhooks.matching import rule_matches
from tiphys.apiserver.admission.webhooks.mutating import MutatingAdmissionWebhook
from tiphys.apiserver.admission.webhooks.review import answer
from tiphys.apiserver.admission.webhooks.validating import ValidatingAdmissionWebhook
from tiphys.apiserver.http.egress import Egress
from tiphys.apiserver.pki import Authority
from tiphys.apiserver.service_endpoints import Endpoint
from tiphys.machinery.errors import StatusError

GROUP = "admissionregistration.k8s.io"
MAPS = resource_by_path("", "v1", "configmaps")
assert MAPS is not None
RULE = {"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}


def config_map(**labels: str) -> dict[str, Any]:
    metadata = {"name": "a", "namespace": "default", "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def rule(**changes: Any) -> dict[str, Any]:
    return RULE | changes


@pytest.mark.parametrize(
    ("given", "matches"),
    [
        (rule(), True),
        (rule(operations=["UPDATE"]), False),
        (rule(operations=["UPDATE", "CREATE"]), True),
        (rule(apiGroups=["*"], apiVersions=["*"], resources=["*"]), True),
        (rule(apiGroups=["apps"]), False),
        (rule(apiVersions=["v2"]), False),
        (rule(resources=["configmaps/status"]), False),
        (rule(resources=["configmaps/*"]), True),
        (rule(resources=["*/status"]), False),
        (rule(resources=["*/*"]), True),
        (rule(scope="Namespaced"), True),
        (rule(scope="Cluster"), False),
        (rule(resources=[]), False),
    ],
)
def test_rules(given: dict[str, Any], matches: bool) -> None:
    assert MAPS is not None
    assert rule_matches(given, write("v1/configmaps", config_map()), MAPS) is matches


def test_rules_on_subresources() -> None:
    pods = resource_by_path("", "v1", "pods")
    assert pods is not None
    status = write("v1/pods", config_map(), subresource="status")
    assert rule_matches(rule(resources=["*/status"]), status, pods)
    assert rule_matches(rule(resources=["pods/status"]), status, pods)
    assert not rule_matches(rule(resources=["pods"]), status, pods)
    assert not rule_matches(rule(resources=["*"]), status, pods)


class World:
    """Webhooks called w1, w2, …, each at http://w1 and so on."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.objects.add("", "namespaces", "default", metadata={"labels": {"team": "blue"}})
        self.hooks = Hooks()
        self._webhooks: dict[str, list[Any]] = {}

    def hook(self, kind: str, name: str, answer: Callable[[Any], Any] | None = None, **spec: Any) -> None:
        plural = f"{kind}webhookconfigurations"
        found = {
            "name": name,
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": f"http://{name}"},
            "rules": [RULE],
            "sideEffects": "None",
            **spec,
        }
        self.objects.add(GROUP, plural, name, webhooks=[found])
        if answer is not None:
            self.hooks.answers[f"http://{name}"] = answer

    def chain(self) -> AdmissionChain:
        assert MAPS is not None
        given = parts(self.objects, hooks=self.hooks, versions=OneVersion(MAPS))
        return AdmissionChain([MutatingAdmissionWebhook(given), ValidatingAdmissionWebhook(given)])

    async def write(self, obj: dict[str, Any], **more: Any) -> Any:
        attributes = write("v1/configmaps", obj, **more)
        chain = self.chain()
        await chain.admit(attributes)
        await chain.validate(attributes)
        return attributes

    @property
    def asked(self) -> list[str]:
        return [url.removeprefix("http://") for url, _ in self.hooks.asked]


@pytest.fixture
def world() -> World:
    return World()


def allow(request: Any) -> dict[str, Any]:
    return {"allowed": True}


def patching(*operations: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    patch = base64.b64encode(json.dumps(operations).encode()).decode()
    return lambda request: {"allowed": True, "patchType": "JSONPatch", "patch": patch}


def labelling(name: str) -> Callable[[Any], dict[str, Any]]:
    return patching({"op": "add", "path": f"/metadata/labels/{name}", "value": "x"})


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        ({}, True),
        ({"namespaceSelector": {"matchLabels": {"team": "blue"}}}, True),
        ({"namespaceSelector": {"matchLabels": {"team": "red"}}}, False),
        ({"objectSelector": {"matchLabels": {"a": "b"}}}, True),
        ({"objectSelector": {"matchLabels": {"a": "c"}}}, False),
        ({"rules": [rule(resources=["secrets"])]}, False),
    ],
)
async def test_who_is_asked(world: World, spec: dict[str, Any], asked: bool) -> None:
    world.hook("validating", "w1", allow, **spec)
    await world.write(config_map(a="b"))
    assert world.asked == (["w1"] if asked else [])


async def test_the_question(world: World) -> None:
    world.hook("validating", "w1", allow)
    await world.write(config_map(), dry_run=True)
    ((_, review),) = world.hooks.asked
    request = review["request"]
    assert (review["kind"], review["apiVersion"]) == ("AdmissionReview", "admission.k8s.io/v1")
    assert request["kind"] == request["requestKind"] == {"group": "", "version": "v1", "kind": "ConfigMap"}
    assert request["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert (request["name"], request["namespace"], request["operation"]) == ("a", "default", "CREATE")
    assert request["userInfo"] == {"username": "alice", "groups": ["system:authenticated"]}
    assert request["object"]["kind"] == "ConfigMap" and request["oldObject"] is None
    assert request["dryRun"] is True


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        ({"message": "no"}, 400, 'admission webhook "w1" denied the request: no'),
        ({"code": 403, "reason": "Forbidden"}, 403, 'admission webhook "w1" denied the request: Forbidden'),
        ({}, 400, 'admission webhook "w1" denied the request without explanation'),
        ({"code": 200, "message": "no"}, 400, 'admission webhook "w1" denied the request: no'),
    ],
)
async def test_a_refusal(world: World, status: dict[str, Any], code: int, message: str) -> None:
    world.hook("validating", "w1", lambda request: {"allowed": False, "status": status})
    with pytest.raises(StatusError) as refused:
        await world.write(config_map())
    assert (refused.value.code, refused.value.message) == (code, message)


async def test_warnings_and_annotations_are_kept(world: World) -> None:
    said = {"allowed": True, "warnings": ["careful"], "auditAnnotations": {"k": "v"}}
    world.hook("validating", "w1", lambda request: said)
    attributes = await world.write(config_map())
    assert attributes.warnings == ["careful"]
    assert attributes.annotations == {"w1/k": "v"}


BAD_ANSWERS = [
    (lambda request: {"allowed": True, "uid": "other"}, 'expected response.uid="'),
    (lambda request: {"allowed": True, "patch": "W10="}, "response.patch but not response.patchType"),
    (lambda request: {"allowed": True, "patchType": "JSONPatch"}, "response.patchType but not response.patch"),
    (lambda request: {"allowed": True, "patch": "%", "patchType": "JSONPatch"}, "illegal base64 data at input byte 0"),
    (lambda request: {"allowed": True, "patch": "aGVsbG8=", "patchType": "JSONPatch"}, "undecodable patch"),
    (lambda request: {"allowed": True, "patch": "e30=", "patchType": "JSONPatch"}, "object into Go value of type json"),
    (lambda request: {"allowed": "yes"}, "string into Go struct field AdmissionResponse.response.allowed of type bool"),
]


@pytest.mark.parametrize(("said", "why"), BAD_ANSWERS)
async def test_a_bad_answer_is_a_failure(world: World, said: Any, why: str) -> None:
    world.hook("mutating", "w1", said)
    with pytest.raises(StatusError, match=why) as failed:
        await world.write(config_map())
    assert failed.value.code == 500


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"null", "webhook response was absent"),
        (b"{}", "webhook response was absent"),
        (b'{"response": 5}', "cannot unmarshal number into Go struct field AdmissionReview.response of type v1.Adm"),
        (b"[]", "json parse error: json: cannot unmarshal array into Go value of type struct"),
        (b"hello", "json parse error: json: cannot unmarshal string into Go value of type struct"),
        (b'{"a":', "json parse error: unexpected end of JSON input"),
        (b'{"kind": "Pod"}', 'no kind "Pod" is registered for version "admission.k8s.io/v1" in scheme'),
        (b'{"apiVersion": "admission.k8s.io/v1beta1"}', "v1beta1.AdmissionReview[)] to [(]v1.AdmissionReview[)]: unk"),
    ],
)
def test_what_is_no_review(data: bytes, why: str) -> None:
    with pytest.raises(CallError, match=why):
        answer(data, "u", "admission.k8s.io/v1")


async def test_a_failure_refuses_or_is_ignored(world: World) -> None:
    world.hook("validating", "w1", failurePolicy="Ignore")
    await world.write(config_map())
    world.hook("validating", "w2", failurePolicy="Fail")
    with pytest.raises(StatusError) as failed:
        await world.write(config_map())
    assert failed.value.message == (
        'Internal error occurred: failed calling webhook "w2": failed to call webhook: Post "http://w2": '
        "connection refused"
    )


async def test_side_effects_and_dry_runs_do_not_go_together(world: World) -> None:
    world.hook("validating", "w1", allow, sideEffects="Unknown")
    await world.write(config_map())
    with pytest.raises(StatusError, match='admission webhook "w1" does not support dry run'):
        await world.write(config_map(), dry_run=True)


async def test_changes_are_seen_by_later_webhooks(world: World) -> None:
    world.hook("mutating", "w1", labelling("one"))
    world.hook("mutating", "w2", labelling("two"))
    attributes = await world.write(config_map())
    assert attributes.object["metadata"]["labels"] == {"one": "x", "two": "x"}
    assert world.hooks.asked[1][1]["request"]["object"]["metadata"]["labels"] == {"one": "x"}


@pytest.mark.parametrize(
    ("first", "second", "asked"),
    [
        ("Never", "Never", ["w1", "w2"]),
        ("IfNeeded", "Never", ["w1", "w2", "w1"]),
        ("IfNeeded", "IfNeeded", ["w1", "w2", "w1"]),
        ("Never", "IfNeeded", ["w1", "w2"]),
    ],
)
async def test_a_webhook_is_asked_again_when_a_later_one_changed_the_object(
    world: World, first: str, second: str, asked: list[str]
) -> None:
    world.hook("mutating", "w1", labelling("one"), reinvocationPolicy=first)
    world.hook("mutating", "w2", labelling("two"), reinvocationPolicy=second)
    await world.write(config_map())
    assert world.asked == asked


async def test_nobody_is_asked_again_when_nothing_changed(world: World) -> None:
    world.hook("mutating", "w1", allow, reinvocationPolicy="IfNeeded")
    world.hook("mutating", "w2", allow, reinvocationPolicy="IfNeeded")
    await world.write(config_map())
    assert world.asked == ["w1", "w2"]


async def test_a_patch_that_does_not_fit_is_an_internal_error(world: World) -> None:
    world.hook("mutating", "w1", patching({"op": "remove", "path": "/nothing"}))
    with pytest.raises(StatusError) as failed:
        await world.write(config_map())
    assert failed.value.code == 500


async def test_webhooks_are_not_asked_about_webhooks(world: World) -> None:
    plugin = ValidatingAdmissionWebhook(parts(world.objects, hooks=world.hooks))
    for plural in ("validatingwebhookconfigurations", "mutatingwebhookconfigurations"):
        attributes = write(f"{GROUP}/v1/{plural}", {"metadata": {"name": "x"}})
        assert not plugin.handles(attributes)
    attributes = write("v1/configmaps", None, config_map(), operation=Operation.DELETE)
    assert plugin.handles(attributes)
    await run(plugin, attributes)


# --- where they are -------------------------------------------------------------------------------
def service(objects: Objects, **conditions: bool) -> None:
    objects.add("", "services", "hook", "ns", spec={"ports": [{"port": 443, "name": "https"}]})
    objects.add(
        "discovery.k8s.io",
        "endpointslices",
        "hook-1",
        "ns",
        metadata={"labels": {"kubernetes.io/service-name": "hook"}},
        ports=[{"name": "https", "port": 8443}, {"name": "other", "port": 1}],
        endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}, {"addresses": ["10.0.0.2"]}],
    )


def test_a_service_is_where_its_ready_endpoints_are() -> None:
    objects = Objects()
    with pytest.raises(CallError, match='service "hook" not found'):
        endpoints_of(objects, "ns", "hook", 443)
    service(objects, ready=False)
    assert endpoints_of(objects, "ns", "hook", 443) == [Endpoint("10.0.0.2", 8443)]
    with pytest.raises(CallError, match='no service port 80 found for service "hook"'):
        endpoints_of(objects, "ns", "hook", 80)
    objects.found["discovery.k8s.io", "endpointslices"].clear()
    with pytest.raises(CallError, match='no endpoints available for service "hook"'):
        endpoints_of(objects, "ns", "hook", 443)


@pytest.mark.parametrize(
    ("config", "url"),
    [
        ({"url": "https://a.test/x"}, "https://a.test/x"),
        ({"url": "https://a.test:8443"}, "https://a.test:8443/"),
        ({"url": "https://a.test:8443//x"}, "https://a.test:8443/x"),  # what envtest writes
        ({"url": "https://a.test/a/../b//c/"}, "https://a.test/b/c"),
        ({"url": "https://a.test/p%20q/%2Fx"}, "https://a.test/p%20q/x"),
        ({"service": {"name": "n", "namespace": "ns"}}, "https://n.ns.svc:443/"),
        ({"service": {"name": "n", "namespace": "ns", "path": "/p?q=1", "port": 8}}, "https://n.ns.svc:8/p?q=1"),
    ],
)
def test_urls(config: dict[str, Any], url: str) -> None:
    assert url_of(config) == url


BAD_STATUSES = {
    "/status": "forbidden words",
    "/is/200": "0-length response with status code: 200 and content type: application/json",
    "/is/401": "the server has asked for the client to provide credentials",
    "/is/413": "the server responded with the status code 413 but did not return more information",
    "/is/503": "the server is currently unable to handle the request",
}


async def test_a_call_over_tls(tmp_path: Path) -> None:
    authority = Authority.create("ca")
    pair = authority.server("hook", ["hook.ns.svc"])
    (tmp_path / "crt").write_bytes(pair.certificate)
    (tmp_path / "key").write_bytes(pair.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    asked: list[str] = []

    async def respond(request: web.Request) -> web.Response:
        asked.append(str(request.rel_url))
        if request.path == "/broken":
            return web.Response(status=500, text="it is broken")
        if request.path.startswith("/is/"):
            return web.Response(status=int(request.path.rpartition("/")[2]))
        if request.path == "/status":
            told = {"kind": "Status", "apiVersion": "v1", "message": "forbidden words"}
            return web.json_response(told, status=403)
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_post("/{path:.*}", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    port = runner.addresses[0][1]
    objects = Objects()
    service(objects)
    slices = objects.found["discovery.k8s.io", "endpointslices"]
    slices[0]["endpoints"] = [{"addresses": ["127.0.0.1"]}]
    slices[0]["ports"] = [{"name": "https", "port": port}]
    caller = HttpsCaller(objects, Egress())

    async def call(path: str, bundle: bytes) -> bytes:
        where = {"name": "hook", "namespace": "ns", "path": path, "port": 443}
        config = {"service": where, "caBundle": base64.b64encode(bundle).decode()}
        return await caller.call(config, b"{}", 5)

    try:
        assert await call("/ok", authority.pem) == b"{}"
        assert asked == ["/ok?timeout=5s"]
        with pytest.raises(CallError, match=r'an error on the server \("it is broken"\) has prevented the request'):
            await call("/broken", authority.pem)
        for path, why in BAD_STATUSES.items():
            with pytest.raises(CallError, match=f"failed to call webhook: {why}"):
                await call(path, authority.pem)
        with pytest.raises(CallError, match="tls: failed to verify certificate: x509: certificate signed by unknown"):
            await call("/ok", Authority.create("other").pem)
        await runner.cleanup()
        with pytest.raises(CallError, match=r"connection refused|EOF"):
            await call("/ok", authority.pem)
    finally:
        await runner.cleanup()
