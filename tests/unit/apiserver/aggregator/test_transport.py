"""Where requests to an extension server go."""

from pathlib import Path

import pytest

from tests.unit.apiserver.admission.parts import Objects
from tiphys.apiserver.aggregator.apiservices import Registration, ServiceReference
from tiphys.apiserver.aggregator.transport import NoEndpointError, ProxyCertificate, Transport, TransportError
from tiphys.apiserver.http.egress import Egress
from tiphys.apiserver.pki import Authority


def registration(port: int = 443, bundle: str = "", *, insecure: bool = False) -> Registration:
    return Registration(
        name="v1.g",
        uid="u",
        group="g",
        version="v1",
        group_priority=1,
        version_priority=1,
        service=ServiceReference("ns", "api", port),
        ca_bundle=bundle,
        insecure=insecure,
    )


def objects(*addresses: str, **spec: object) -> Objects:
    found = Objects()
    found.add("", "services", "api", "ns", spec={"ports": [{"port": 443, "name": "https"}], **spec})
    found.add(
        "discovery.k8s.io",
        "endpointslices",
        "api-1",
        "ns",
        metadata={"labels": {"kubernetes.io/service-name": "api"}},
        ports=[{"name": "https", "port": 8443}],
        endpoints=[{"addresses": [one]} for one in addresses],
    )
    return found


def transport(found: Objects) -> Transport:
    return Transport(found, Egress(), ProxyCertificate())


def test_every_ready_endpoint_may_answer() -> None:
    targets = transport(objects("10.0.0.1", "10.0.0.2")).targets(registration(), "/apis?x=1")
    assert sorted((one.host, one.port, one.path) for one in targets) == [
        ("10.0.0.1", 8443, "/apis?x=1"),
        ("10.0.0.2", 8443, "/apis?x=1"),
    ]
    assert {one.server_name for one in targets} == {"api.ns.svc"}


def test_an_external_name_is_where_it_says() -> None:
    (target,) = transport(objects(type="ExternalName", externalName="api.example.com")).targets(registration(6), "/")
    assert (target.host, target.port, target.server_name) == ("api.example.com", 6, "api.ns.svc")


@pytest.mark.parametrize(
    ("found", "port", "message"),
    [
        (Objects(), 443, 'service "api" not found'),
        (objects("10.0.0.1"), 80, 'no service port 80 found for service "api"'),
        (objects(), 443, 'no endpoints available for service "api"'),
    ],
    ids=["no service", "no port", "no endpoints"],
)
def test_nowhere_to_go(found: Objects, port: int, message: str) -> None:
    with pytest.raises(NoEndpointError, match=message):
        transport(found).targets(registration(port), "/")


def test_a_bundle_that_is_no_certificate_is_told() -> None:
    with pytest.raises(TransportError, match="unable to load root certificates"):
        transport(objects("10.0.0.1")).targets(registration(bundle="nonsense"), "/")


def test_a_replaced_certificate_is_noticed(tmp_path: Path) -> None:
    authority = Authority.create("front-proxy-ca")
    files = tmp_path / "proxy.crt", tmp_path / "proxy.key"

    def write() -> None:
        pair = authority.client("front-proxy-client")
        for file, data in zip(files, (pair.certificate, pair.key), strict=True):
            file.write_bytes(data)

    write()
    made = Transport(objects("10.0.0.1"), Egress(), ProxyCertificate(*files))
    first = made.targets(registration(insecure=True), "/")[0].tls
    assert made.targets(registration(insecure=True), "/")[0].tls is first
    files[0].unlink()
    write()
    assert made.targets(registration(insecure=True), "/")[0].tls is not first
