"""Who is asking and may they, asked of others: a real OpenID provider and real webhooks over TLS, a proxy in front."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.integration.apiserver.cluster import Cluster, secured_cluster
from tests.integration.apiserver.https_service import Service, https_service
from tiphys.apiserver.access_options import AccessOptions, OidcOptions
from tiphys.apiserver.audit.options import AuditOptions
from tiphys.apiserver.authn.service_account import PrivateKey, TokenIssuer
from tiphys.apiserver.pki import Authority
from tiphys.apiserver.security import json_web_key
from tiphys.base.clock import SystemClock

REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
CONFIG = "apiserver.config.k8s.io/v1"


async def who(cluster: Cluster, token: str) -> Any:
    """The user of a token; None when it is refused."""
    status, review = await cluster.ask("POST", REVIEWS, REVIEW, token=token)
    return review["status"]["userInfo"] if status == 201 else None


class Provider:
    """An OpenID provider: discovery, keys, and tokens signed with them."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.keys: list[PrivateKey] = [rsa.generate_private_key(65537, 2048)]

    @property
    def url(self) -> str:
        return self.service.url

    def token(self, **claims: Any) -> str:
        """A token of the newest key; None leaves a claim out."""
        now = int(time.time())
        known = {"iss": self.url, "aud": "kubernetes", "sub": "jane", "exp": now + 600, "iat": now, **claims}
        signer = TokenIssuer(self.keys[-1], self.url, SystemClock())
        return signer.sign({key: value for key, value in known.items() if value is not None})


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Provider]:
    async def answer(service: Service, request: web.Request, body: Any) -> web.Response:
        if request.path == "/.well-known/openid-configuration":
            return web.json_response({"issuer": service.url, "jwks_uri": f"{service.url}/keys"})
        if request.path == "/groups":
            wanted = found.token(sub=None, groups=["far", "away"])
            known = request.headers.get("Authorization") == "Bearer let-me"
            return web.Response(text=wanted) if known else web.Response(status=401)
        if request.path == "/keys":
            return web.json_response({"keys": [json_web_key(key.public_key()) for key in found.keys]})
        return web.Response(status=404)

    async with https_service(tmp_path, answer) as service:
        found = Provider(service)
        yield found


def config_file(directory: Path, kind: str, **fields: Any) -> Path:
    file = directory / f"{kind}.yaml"
    file.write_text(yaml.safe_dump({"apiVersion": CONFIG, "kind": kind, **fields}))
    return file


# --- OpenID Connect ---------------------------------------------------------------------------------


async def test_oidc_by_flags(tmp_path: Path, provider: Provider) -> None:
    oidc = OidcOptions(
        issuer_url=provider.url,
        client_id="kubernetes",
        ca_file=provider.service.ca_file,
        groups_claim="groups",
        groups_prefix="oidc:",
        required_claims={"team": "blue"},
    )
    async with secured_cluster(tmp_path, access=AccessOptions(oidc=oidc)) as cluster:
        assert not provider.service.asked  # nobody is asked before the first token
        token = provider.token(groups=["devs", "ops"], team="blue")
        user = await who(cluster, token)
        assert user["username"] == f"{provider.url}#jane"
        assert user["groups"] == ["oidc:devs", "oidc:ops", "system:authenticated"]
        assert (await who(cluster, provider.token(groups="one", team="blue")))["groups"][0] == "oidc:one"
        refused = {
            "another team": provider.token(team="red"),
            "no team": provider.token(),
            "expired": provider.token(team="blue", exp=1),
            "for others": provider.token(team="blue", aud="others"),
            "changed": token[:-4] + "AAAA",
            "of another issuer": provider.token(team="blue", iss="https://else.where"),
            "no name": provider.token(team="blue", sub=None),
        }
        assert {why: await who(cluster, one) for why, one in refused.items()} == dict.fromkeys(refused)
        assert await who(cluster, provider.token(team="blue", aud=["others", "kubernetes"])) is not None
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": refused["expired"]},
        }
        answer = await cluster.api.post("/apis/authentication.k8s.io/v1/tokenreviews", review)
        assert "oidc: verify token: oidc: token is expired" in answer["status"]["error"]
        asked = [path for path, _, _ in provider.service.asked]
        assert asked[:2] == ["/.well-known/openid-configuration", "/keys"]
        assert asked.count("/.well-known/openid-configuration") == 1


async def test_groups_that_are_elsewhere(tmp_path: Path, provider: Provider) -> None:
    oidc = OidcOptions(
        issuer_url=provider.url,
        client_id="kubernetes",
        ca_file=provider.service.ca_file,
        groups_claim="groups",
        username_prefix="-",
    )

    def token(access: str, claim: str = "groups") -> str:
        source = {"endpoint": f"{provider.url}/groups", "access_token": access}
        return provider.token(_claim_names={claim: "src1"}, _claim_sources={"src1": source})

    async with secured_cluster(tmp_path, access=AccessOptions(oidc=oidc)) as cluster:
        assert (await who(cluster, token("let-me")))["groups"] == ["far", "away", "system:authenticated"]
        assert await who(cluster, token("let-them")) is None
        assert (await who(cluster, token("let-me", "other")))["groups"] == ["system:authenticated"]


async def test_keys_are_rotated(tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiphys.apiserver.authn.oidc.provider.LEAST_INTERVAL", 0.0)
    oidc = OidcOptions(
        issuer_url=provider.url,
        client_id="kubernetes",
        ca_file=provider.service.ca_file,
        signing_algorithms=("RS256", "ES256"),
        username_prefix="-",
    )
    async with secured_cluster(tmp_path, access=AccessOptions(oidc=oidc)) as cluster:
        old = provider.token()
        assert (await who(cluster, old))["username"] == "jane"
        provider.keys.append(ec.generate_private_key(ec.SECP256R1()))
        assert (await who(cluster, provider.token()))["username"] == "jane"
        del provider.keys[0]
        assert await who(cluster, old) is not None  # until the keys are fetched again
        provider.keys.append(rsa.generate_private_key(65537, 2048))
        assert await who(cluster, provider.token()) is not None
        assert await who(cluster, old) is None


async def test_several_issuers_with_expressions(tmp_path: Path, provider: Provider) -> None:
    ca = provider.service.ca_file.read_text()
    jwt = {
        "issuer": {
            "url": provider.url,
            "certificateAuthority": ca,
            "audiences": ["kubernetes", "other"],
            "audienceMatchPolicy": "MatchAny",
        },
        "claimMappings": {
            "username": {"expression": "claims.email + ':' + claims.sub"},
            "groups": {"expression": "claims.roles.filter(role, role != 'none').map(role, 'r-' + role)"},
            "uid": {"expression": "claims.sub"},
            "extra": [{"key": "example.com/tenant", "valueExpression": "claims.?tenant.orValue('')"}],
        },
        "claimValidationRules": [
            {"expression": "claims.?email_verified.orValue(true) == true", "message": "email must be verified"},
            {"expression": "claims.exp - claims.iat <= 3600", "message": "too long a life"},
        ],
        "userValidationRules": [
            {
                "expression": "!user.username.startsWith('system:')",
                "message": "username cannot used reserved system: prefix",
            }
        ],
    }
    other = {
        "issuer": {"url": "https://127.0.0.1:1", "audiences": ["x"]},
        "claimMappings": {"username": {"claim": "sub", "prefix": ""}},
    }
    access = AccessOptions(authentication_config=config_file(tmp_path, "AuthenticationConfiguration", jwt=[other, jwt]))
    async with secured_cluster(tmp_path, access=access) as cluster:
        claims = {"email": "jane@example.com", "roles": ["a", "none"], "tenant": "t1"}
        user = await who(cluster, provider.token(**claims))
        assert user["username"] == "jane@example.com:jane"
        assert (user["uid"], user["groups"]) == ("jane", ["r-a", "system:authenticated"])
        assert user["extra"] == {"example.com/tenant": ["t1"]}
        assert "extra" not in await who(cluster, provider.token(**claims | {"tenant": None}))
        assert await who(cluster, provider.token(**claims, aud="other")) is not None
        for wrong in (
            {"email_verified": False},
            {"exp": int(time.time()) + 9999},
            {"email": "system:x"},
            {"roles": None},
        ):
            assert await who(cluster, provider.token(**claims | wrong)) is None
        # Nobody answers for the other issuer: its tokens are refused, and others are not held up.
        assert await who(cluster, provider.token(iss="https://127.0.0.1:1", aud="x")) is None


async def test_anonymous_for_some_paths(tmp_path: Path) -> None:
    anonymous = {"enabled": True, "conditions": [{"path": "/livez"}, {"path": "/readyz"}]}
    file = config_file(tmp_path, "AuthenticationConfiguration", anonymous=anonymous)
    async with secured_cluster(tmp_path, access=AccessOptions(authentication_config=file)) as cluster:
        asked = {path: (await cluster.asked("GET", path))[0] for path in ("/livez", "/readyz", "/healthz", "/version")}
        assert asked == {"/livez": 200, "/readyz": 200, "/healthz": 401, "/version": 401}


# --- webhooks ---------------------------------------------------------------------------------------


async def test_tokens_that_a_service_knows(tmp_path: Path) -> None:
    async def answer(service: Service, request: web.Request, body: Any) -> web.Response:
        if len(service.asked) == 1:
            return web.Response(status=500)
        known = body["spec"]["token"] == "good"
        user = {"username": "mary", "uid": "7", "groups": ["g"], "extra": {"Key": ["v"]}}
        status = {"authenticated": True, "user": user} if known else {"authenticated": False, "error": "unknown token"}
        return web.json_response({**body, "status": status})

    async with https_service(tmp_path, answer) as service:
        access = AccessOptions(token_webhook=service.kubeconfig("/tokens", token="me"), token_webhook_version="v1")
        async with secured_cluster(tmp_path, access=access) as cluster:
            for _ in range(3):
                user = await who(cluster, "good")
                assert (user["username"], user["uid"], user["groups"]) == ("mary", "7", ["g", "system:authenticated"])
                assert user["extra"] == {"key": ["v"]}
            assert await who(cluster, "bad") is None
            assert (await who(cluster, "alice-token"))["username"] == "alice"  # known without asking
        assert [path for path, _, _ in service.asked] == ["/tokens"] * 3  # a failure, its repetition, and the bad one
        _, headers, review = service.asked[0]
        assert headers["authorization"] == "Bearer me"
        assert (review["apiVersion"], review["kind"], review["spec"]) == (
            "authentication.k8s.io/v1",
            "TokenReview",
            {"token": "good"},
        )


def judge(verdicts: dict[str, dict[str, Any]]) -> Any:
    async def answer(service: Service, request: web.Request, body: Any) -> web.Response:
        spec = body["spec"]
        what = (spec.get("resourceAttributes") or {}).get("resource") or spec["nonResourceAttributes"]["path"]
        if what not in verdicts:
            return web.Response(status=503 if what == "broken" else 400)
        return web.json_response({**body, "status": verdicts[what]})

    return answer


async def test_a_service_judges(tmp_path: Path) -> None:
    verdicts = {
        "configmaps": {"allowed": True, "reason": "because"},
        "secrets": {"allowed": False, "denied": True, "reason": "never"},
        "pods": {"allowed": False, "reason": "no idea"},
        "groups": {"allowed": True},
        "users": {"allowed": True},
    }
    async with https_service(tmp_path, judge(verdicts)) as service:
        access = AccessOptions(webhook=service.kubeconfig())
        modes = ("Node", "Webhook", "RBAC")
        async with secured_cluster(tmp_path, access=access, authorization_modes=modes) as cluster:
            path = "/api/v1/namespaces/d/{}?labelSelector=a%3Db"
            for _ in range(3):
                assert (await cluster.ask("GET", path.format("configmaps"), token="alice-token"))[0] == 200
            (asked,) = [body for _, _, body in service.asked]
            assert asked["apiVersion"] == "authorization.k8s.io/v1beta1"
            assert asked["spec"]["group"] == ["devs", "system:authenticated"]
            wanted = {"key": "a", "operator": "In", "values": ["b"]}
            assert asked["spec"]["resourceAttributes"] == {
                "namespace": "d",
                "verb": "list",
                "version": "v1",
                "resource": "configmaps",
                "labelSelector": {"requirements": [wanted]},
            }
            status, refused = await cluster.ask("GET", path.format("secrets"), token="alice-token")
            assert (status, refused["message"].endswith(": never")) == (403, True)
            status, refused = await cluster.ask("GET", path.format("pods"), token="alice-token")
            assert (status, "no idea" in refused["message"]) == (403, True)
            spec = {"user": "alice", "resourceAttributes": {"resource": "secrets", "verb": "get", "version": "v1"}}
            review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
            answer = await cluster.api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
            assert answer["status"] == {"allowed": False, "denied": True, "reason": "never"}
            # Impersonation is judged by it as well.
            headers = {"Authorization": "Bearer alice-token", "Impersonate-User": "bob"}
            connector = aiohttp.TCPConnector(ssl=cluster.context())
            session = aiohttp.ClientSession(cluster.url, connector=connector, headers=headers)
            async with session, session.get("/api/v1/namespaces/d/configmaps") as listed:
                assert listed.status == 200
            assert service.asked[-1][2]["spec"]["user"] == "bob"
            # Members of system:masters are never asked about.
            assert not any(body["spec"]["user"] == "root" for _, _, body in service.asked)


def authorizer(kubeconfig: Path, name: str, **webhook: Any) -> dict[str, Any]:
    known = {
        "timeout": "3s",
        "subjectAccessReviewVersion": "v1",
        "matchConditionSubjectAccessReviewVersion": "v1",
        "failurePolicy": "Deny",
        "authorizedTTL": "30s",
        "unauthorizedTTL": "30s",
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": str(kubeconfig)},
    }
    return {"type": "Webhook", "name": name, "webhook": {**known, **webhook}}


async def test_authorizers_by_a_file(tmp_path: Path) -> None:
    verdicts = {"configmaps": {"allowed": True}, "pods": {"allowed": False}}
    async with https_service(tmp_path, judge(verdicts)) as service:
        conditions = [
            {"expression": "has(request.resourceAttributes)"},
            {"expression": "request.resourceAttributes.namespace == 'd'"},
            {"expression": "!('system:nodes' in request.groups)"},
        ]
        authorizers = [
            authorizer(service.kubeconfig("/first"), "first", matchConditions=conditions),
            {"type": "RBAC", "name": "rbac"},
        ]
        file = config_file(tmp_path, "AuthorizationConfiguration", authorizers=authorizers)
        async with secured_cluster(tmp_path, access=AccessOptions(authorization_config=file)) as cluster:
            assert (await cluster.ask("GET", "/api/v1/namespaces/d/configmaps", token="alice-token"))[0] == 200
            assert (await cluster.ask("GET", "/api/v1/namespaces/d/pods", token="alice-token"))[0] == 403
            count = len(service.asked)
            # Neither of these meets the conditions.
            assert (await cluster.ask("GET", "/api/v1/namespaces/e/configmaps", token="alice-token"))[0] == 403
            assert (await cluster.ask("GET", "/version", token="alice-token"))[0] == 200
            assert len(service.asked) == count
            # No answer: it denies.
            status, refused = await cluster.ask("GET", "/api/v1/namespaces/d/secrets", token="alice-token")
            assert (status, "HTTP status 400" in refused["message"]) == (403, True)
            assert service.asked[0][2]["spec"]["groups"] == ["devs", "system:authenticated"]


async def test_policies_may_ask_outside_too(tmp_path: Path) -> None:
    """An expression of an admission policy that asks the authorizer waits for the webhook's answer."""
    verdicts = {"configmaps": {"allowed": True}, "widgets": {"allowed": True}, "gadgets": {"allowed": False}}
    async with https_service(tmp_path, judge(verdicts)) as service:
        access = AccessOptions(webhook=service.kubeconfig())
        async with secured_cluster(tmp_path, access=access, authorization_modes=("Webhook", "RBAC")) as cluster:
            group = "/apis/admissionregistration.k8s.io/v1"
            rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
            test = "authorizer.group('').resource(object.data.needs).check('get').allowed()"
            spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": test}]}
            await cluster.api.post(f"{group}/validatingadmissionpolicies", {"metadata": {"name": "p"}, "spec": spec})
            binding = {"policyName": "p", "validationActions": ["Deny"]}
            await cluster.api.post(
                f"{group}/validatingadmissionpolicybindings", {"metadata": {"name": "p"}, "spec": binding}
            )
            made = {}
            for needs in ("widgets", "gadgets"):
                body = {"metadata": {"name": needs}, "data": {"needs": needs}}
                made[needs] = (await cluster.ask("POST", "/api/v1/namespaces/d/configmaps", body, token="alice-token"))[
                    0
                ]
            assert made == {"widgets": 201, "gadgets": 422}


# --- a proxy in front -------------------------------------------------------------------------------


async def test_a_proxy_is_believed_by_its_certificate(tmp_path: Path) -> None:
    proxies = Authority.create("proxy-ca")
    ca = tmp_path / "proxy-ca.crt"
    ca.write_bytes(proxies.pem)
    async with secured_cluster(tmp_path, requestheader_ca=ca, requestheader_names=("front",)) as cluster:
        headers = {
            "X-Remote-User": "peter",
            "X-Remote-Group": "devs",
            "X-Remote-Extra-Example.com%2Fscope": "a",
        }
        client = cluster.authority

        async def asked(authority: Authority, name: str) -> Any:
            cluster.authority = authority
            context = cluster.context(name, "system:masters")
            cluster.authority = client
            context.load_verify_locations(cadata=client.pem.decode())
            connector = aiohttp.TCPConnector(ssl=context)
            async with (
                aiohttp.ClientSession(cluster.url, connector=connector, headers=headers) as session,
                session.post(REVIEWS, json=REVIEW) as answer,
            ):
                found = await answer.json()
                return found["status"]["userInfo"] if answer.status == 201 else answer.status

        user = await asked(proxies, "front")
        assert (user["username"], user["groups"]) == ("peter", ["devs", "system:authenticated"])
        assert user["extra"] == {"example.com/scope": ["a"]}
        # Another name is no proxy, and a proxy's certificate is no client's: it is nobody.
        assert await asked(proxies, "other") == 403
        # A client that says it is somebody else is itself.
        assert (await asked(client, "root"))["username"] == "root"


# --- service accounts -------------------------------------------------------------------------------


async def test_keys_issuers_and_audiences_of_service_accounts(tmp_path: Path) -> None:
    old = ec.generate_private_key(ec.SECP256R1())
    pem = old.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    keys = tmp_path / "old.pub"
    keys.write_bytes(pem)
    log = tmp_path / "audit.log"
    policy = tmp_path / "policy.yaml"
    policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")
    async with secured_cluster(
        tmp_path,
        service_account_keys=(keys,),
        service_account_issuers=("https://before",),
        api_audiences=("api", "more"),
        max_token_seconds=7200,
        audit=AuditOptions(policy=policy, log_path=str(log)),
    ) as cluster:
        account = await cluster.api.get("/api/v1/namespaces/d/serviceaccounts/default")
        before = TokenIssuer(old, "https://before", SystemClock())
        token, _ = before.bound("d", "default", account["metadata"]["uid"], ["more"], 600)
        assert (await who(cluster, token))["username"] == "system:serviceaccount:d:default"
        token, _ = before.bound("d", "default", account["metadata"]["uid"], ["else"], 600)
        assert await who(cluster, token) is None
        stranger = TokenIssuer(ec.generate_private_key(ec.SECP256R1()), "https://before", SystemClock())
        token, _ = stranger.bound("d", "default", account["metadata"]["uid"], ["api"], 600)
        assert await who(cluster, token) is None
        request = {"spec": {"expirationSeconds": 100_000}}
        made = await cluster.api.post("/api/v1/namespaces/d/serviceaccounts/default/token", request)
        assert (made["spec"]["audiences"], made["spec"]["expirationSeconds"]) == (["api", "more"], 7200)
        user = await who(cluster, made["status"]["token"])
        (credential,) = user["extra"]["authentication.kubernetes.io/credential-id"]
        issued = [line for line in log.read_text().splitlines() if "issued-credential-id" in line]
        assert f'"authentication.kubernetes.io/issued-credential-id":"{credential}"' in issued[0]
        assert len((await cluster.api.get("/openid/v1/jwks"))["keys"]) == 2


# --- what cannot be ---------------------------------------------------------------------------------

HERE = Path("/nowhere")
INVALID = "invalid authentication configuration"
TWICE = "has mode specified more than once"
TWO = "when any oidc-* flags are set"
REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"access": AccessOptions(oidc=OidcOptions(issuer_url="http://foo", client_id="x"))},
        f'{INVALID}: jwt[0].issuer.url: Invalid value: "http://foo": URL scheme must be https',
    ),
    (
        {"access": AccessOptions(oidc=OidcOptions(issuer_url="https://foo"))},
        f"oidc-issuer-url and oidc-client-id must be specified together {TWO}",
    ),
    (
        {"access": AccessOptions(oidc=OidcOptions(client_id="x"))},
        f"oidc-issuer-url and oidc-client-id must be specified together {TWO}",
    ),
    (
        {"access": AccessOptions(oidc=OidcOptions(issuer_url="https://foo", client_id="x", ca_file=HERE))},
        "open /nowhere: no such file or directory",
    ),
    ({"access": AccessOptions(token_webhook=HERE)}, "stat /nowhere: no such file or directory"),
    (
        {"access": AccessOptions(authentication_config=HERE)},
        'failed to load authentication configuration from file "/nowhere": open /nowhere: no such file or directory',
    ),
    (
        {"authorization_modes": ("Foo", "RBAC", "RBAC")},
        f'[authorization-mode "Foo" is not a valid mode, authorization-mode ["Foo" "RBAC" "RBAC"] {TWICE}]',
    ),
    ({"authorization_modes": ("Webhook",)}, "authorization-mode Webhook's authorization config file not passed"),
    (
        {"access": AccessOptions(webhook=HERE)},
        "cannot specify --authorization-webhook-config-file without mode Webhook",
    ),
    (
        {"max_token_seconds": 60},
        "the service-account-max-token-expiration must be between 1 hour and 2^32 seconds",
    ),
    ({"token_file": HERE}, "open /nowhere: no such file or directory"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
async def test_what_cannot_be(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """The words are those of kube-apiserver v1.36 with the same flags."""
    with pytest.raises(ValueError) as refused:
        async with secured_cluster(tmp_path, **options):
            pass
    assert str(refused.value) == message
