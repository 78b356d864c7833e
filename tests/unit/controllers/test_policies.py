"""Quotas, aggregated roles, certificates, bootstrap tokens, protection of claims and volumes."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.unit.controllers.harness import PODS, World, names, pod
from tiphys.controllers.bootstrap import BootstrapSignerController, TokenCleanerController
from tiphys.controllers.bootstrap.tokens import detached_signature
from tiphys.controllers.certificates import CSRCleanerController, CSRSigningController
from tiphys.controllers.clusterroleaggregation import ClusterRoleAggregationController
from tiphys.controllers.common.context import Options
from tiphys.controllers.resourcequota import ResourceQuotaController
from tiphys.controllers.volumeprotection import PVCProtectionController, PVProtectionController

QUOTAS = "/api/v1/resourcequotas"
ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SECRETS = "/api/v1/secrets"
MAPS = "/api/v1/configmaps"
CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"


async def test_a_quota_counts_pods_requests_and_objects_and_goes_down_again() -> None:
    world = World()
    hard = {"pods": "5", "requests.cpu": "2", "limits.memory": "1Gi", "secrets": "3", "count/deployments.apps": "1"}
    world.api.put(QUOTAS, {"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": hard}, "status": {}})
    scoped = {"hard": {"pods": "5"}, "scopes": ["BestEffort"]}
    world.api.put(QUOTAS, {"metadata": {"name": "best", "namespace": "default"}, "spec": scoped, "status": {}})
    world.api.put(SECRETS, {"metadata": {"name": "s", "namespace": "default"}})
    world.api.put("/apis/apps/v1/deployments", {"metadata": {"name": "d", "namespace": "default"}})
    sized = pod("sized")
    resources = {"requests": {"cpu": "250m"}, "limits": {"memory": "64Mi"}}
    sized["spec"]["containers"] = [{"name": "a", "resources": resources}, {"name": "b", "resources": resources}]
    sized["spec"]["initContainers"] = [{"name": "i", "resources": {"requests": {"cpu": "1"}}}]
    world.api.put(PODS, sized)
    world.api.put(PODS, pod("plain"))
    world.api.put(PODS, pod("ended", phase="Succeeded"))
    async with world.running(ResourceQuotaController, kubelet=False):
        await world.pass_time(5)
        used = {one["metadata"]["name"]: one["status"]["used"] for one in world.api.list(QUOTAS)}
        assert used == {
            "q": {
                "pods": "2",
                "requests.cpu": "1",
                "limits.memory": "128Mi",
                "secrets": "1",
                "count/deployments.apps": "1",
            },
            "best": {"pods": "1"},
        }
        world.api.remove(PODS, "default", "sized")
        await world.pass_time(2)
    quota = world.api.get(QUOTAS, "default", "q")
    assert quota is not None
    assert (quota["status"]["used"]["pods"], quota["status"]["used"]["requests.cpu"]) == ("1", "0")


async def test_what_admission_has_counted_is_not_taken_back_before_caches_can_show_it() -> None:
    world = World()
    spec = {"hard": {"pods": "5"}}
    world.api.put(QUOTAS, {"metadata": {"name": "q", "namespace": "default"}, "spec": spec, "status": {}})
    async with world.running(ResourceQuotaController, kubelet=False):
        await world.pass_time(3)
        before = len(world.api.writes)
        world.api.change(QUOTAS, "default", "q", {"status": {"used": {"pods": "1"}}})
        await world.clock.advance(0.3)
        world.api.put(PODS, pod("p"))
        await world.pass_time(3)
        assert len(world.api.writes) == before
        world.api.change(QUOTAS, "default", "q", {"status": {"used": {"pods": "3"}}})
        world.api.put(PODS, pod("q"))
        await world.clock.advance(0.3)
        assert world.api.list(QUOTAS)[0]["status"]["used"] == {"pods": "3"}
        await world.pass_time(3)
    assert world.api.list(QUOTAS)[0]["status"]["used"] == {"pods": "2"}


async def test_roles_are_aggregated_by_name_without_doubles() -> None:
    world = World()
    selector = {"clusterRoleSelectors": [{"matchLabels": {"to": "admin"}}]}
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
    other = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}
    world.api.put(ROLES, {"metadata": {"name": "admin"}, "aggregationRule": selector, "rules": []})
    world.api.put(ROLES, {"metadata": {"name": "b", "labels": {"to": "admin"}}, "rules": [rule]})
    world.api.put(ROLES, {"metadata": {"name": "a", "labels": {"to": "admin"}}, "rules": [other, rule]})
    async with world.running(ClusterRoleAggregationController):
        await world.settle()
        assert world.api.objects[ROLES]["", "admin"]["rules"] == [other, rule]
        world.api.remove(ROLES, "", "a")
        await world.settle()
    assert world.api.objects[ROLES]["", "admin"]["rules"] == [rule]


def authority() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    now = datetime(2023, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def request(name: str, signer: str, common: str, organization: str, usages: list[str], **names_: Any) -> dict[str, Any]:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names_.get("ip"):
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address(names_["ip"]))])
        builder = builder.add_extension(alternative, critical=False)
    pem = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM
    )
    approved = {"type": "Approved", "status": "True", "lastUpdateTime": "2024-01-01T00:00:00Z"}
    return {
        "metadata": {"name": name},
        "spec": {"request": base64.b64encode(pem).decode(), "signerName": signer, "usages": usages, "username": common},
        "status": {"conditions": [approved]},
    }


async def test_approved_requests_that_fit_are_signed_others_fail() -> None:
    certificate, key = authority()
    world = World(options=Options(cluster_signing_cert=certificate, cluster_signing_key=key))
    serving = ["digital signature", "server auth"]
    world.api.put(
        REQUESTS,
        request("good", "kubernetes.io/kubelet-serving", "system:node:n1", "system:nodes", serving, ip="10.0.0.1"),
    )
    world.api.put(REQUESTS, request("bad", "kubernetes.io/kubelet-serving", "admin", "system:masters", serving))
    world.api.put(REQUESTS, request("other", "example.com/signer", "x", "y", serving))
    async with world.running(CSRSigningController):
        await world.settle()
    good = world.api.objects[REQUESTS]["", "good"]["status"]
    signed = x509.load_pem_x509_certificate(base64.b64decode(good["certificate"]))
    assert signed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "system:node:n1"
    usage = signed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert signed.not_valid_before_utc == datetime(2023, 12, 31, 23, 55, tzinfo=UTC)
    bad = world.api.objects[REQUESTS]["", "bad"]["status"]
    assert "certificate" not in bad
    assert bad["conditions"][-1]["message"] == "subject organization is not system:nodes"
    assert len(world.api.objects[REQUESTS]["", "other"]["status"]["conditions"]) == 1


async def test_a_certificate_for_clients_alone_has_no_empty_key_usage() -> None:
    certificate, key = authority()
    world = World(options=Options(cluster_signing_cert=certificate, cluster_signing_key=key))
    world.api.put(REQUESTS, request("jane", "kubernetes.io/kube-apiserver-client", "jane", "devs", ["client auth"]))
    async with world.running(CSRSigningController):
        await world.settle()
    signed = x509.load_pem_x509_certificate(
        base64.b64decode(world.api.objects[REQUESTS]["", "jane"]["status"]["certificate"])
    )
    # OpenSSL, and so every server that uses it, refuses a certificate whose key usage names nothing.
    assert not any(isinstance(one.value, x509.KeyUsage) for one in signed.extensions)


async def test_decided_requests_go_after_an_hour_pending_ones_after_a_day() -> None:
    world = World()
    denied = request("denied", "x/y", "a", "b", ["client auth"])
    denied["status"]["conditions"][0]["type"] = "Denied"
    world.api.put(REQUESTS, denied)
    world.api.put(REQUESTS, request("unsigned", "x/y", "a", "b", ["client auth"]))
    async with world.running(CSRCleanerController):
        await world.pass_time(3500, step=100)
        assert names(world.api.list(REQUESTS)) == ["denied", "unsigned"]
        await world.pass_time(300, step=100)
        assert names(world.api.list(REQUESTS)) == ["unsigned"]
        await world.pass_time(24 * 3600, step=600)
    assert world.api.list(REQUESTS) == []


def token(name: str, expiration: str = "") -> dict[str, Any]:
    data = {"token-id": name, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true"}
    if expiration:
        data["expiration"] = expiration
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    metadata = {"name": f"bootstrap-token-{name}", "namespace": "kube-system"}
    return {"metadata": metadata, "type": "bootstrap.kubernetes.io/token", "data": encoded}


def test_the_signature_is_the_one_kubeadm_checks() -> None:
    signed = detached_signature("x", "golden", "0123456789abcdef")
    assert signed == "eyJhbGciOiJIUzI1NiIsImtpZCI6ImdvbGRlbiJ9..f6brl1M9-sJw7vmRCHrZVMKgTik69D5hlO2Yyazy2jg"


async def test_cluster_info_is_signed_until_the_token_expires() -> None:
    world = World()
    world.api.put(MAPS, {"metadata": {"name": "cluster-info", "namespace": "kube-public"}, "data": {"kubeconfig": "x"}})
    world.api.put(SECRETS, token("golden"))
    world.api.put(SECRETS, token("short1", "2024-01-01T00:01:00Z"))
    async with world.running(BootstrapSignerController, TokenCleanerController):
        await world.pass_time(10)
        data = world.api.objects[MAPS]["kube-public", "cluster-info"]["data"]
        assert set(data) == {"kubeconfig", "jws-kubeconfig-golden", "jws-kubeconfig-short1"}
        await world.pass_time(60)
    data = world.api.objects[MAPS]["kube-public", "cluster-info"]["data"]
    assert set(data) == {"kubeconfig", "jws-kubeconfig-golden"}
    assert names(world.api.list(SECRETS)) == ["bootstrap-token-golden"]


async def test_a_claim_goes_only_when_no_pod_uses_it_and_a_volume_when_it_is_free() -> None:
    world = World()
    going = {"deletionTimestamp": "2024-01-01T00:00:00Z"}
    claim = {"name": "c", "namespace": "default", "finalizers": ["kubernetes.io/pvc-protection"], **going}
    world.api.put(CLAIMS, {"metadata": claim})
    world.api.put(CLAIMS, {"metadata": {"name": "new", "namespace": "default"}})
    user = pod("user")
    user["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]
    world.api.put(PODS, user)
    volume = {"name": "v", "finalizers": ["kubernetes.io/pv-protection"], **going}
    world.api.put(VOLUMES, {"metadata": volume, "status": {"phase": "Bound"}})
    async with world.running(PVCProtectionController, PVProtectionController, kubelet=False):
        await world.settle()
        assert names(world.api.list(CLAIMS)) == ["c", "new"]
        assert world.api.objects[CLAIMS]["default", "new"]["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
        assert names(world.api.list(VOLUMES)) == ["v"]
        world.api.remove(PODS, "default", "user")
        world.api.change(VOLUMES, "", "v", {"status": {"phase": "Released"}})
        await world.settle()
    assert names(world.api.list(CLAIMS)) == ["new"]
    assert world.api.list(VOLUMES) == []
