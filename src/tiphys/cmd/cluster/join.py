"""How a machine joins: from a server's address and a token to a node's own identities.

    token ─► cluster-info, signed with it ─► the cluster's CA, trusted
          ─► a CertificateSigningRequest  ─► the kubelet's client certificate
          ─► TokenRequests                ─► the tokens of kube-proxy and the network agent

https://kubernetes.io/docs/reference/setup-tools/kubeadm/kubeadm-join/
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from tiphys.api.authentication.v1 import TokenRequest, TokenRequestSpec
from tiphys.api.certificates.v1 import CertificateSigningRequest, CertificateSigningRequestSpec
from tiphys.api.core.v1 import ConfigMap, Node, ServiceAccount
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.apiserver.pki import KeyPair, general_names, key_pem, new_key, write_private
from tiphys.client import Client, RestConfig
from tiphys.client.kubeconfig import data_or_file, select
from tiphys.cmd.cluster.identities import kubeconfig
from tiphys.cmd.cluster.joining import ACCOUNTS, CLUSTER_INFO, NODE_CONFIG
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.errors import CommandError
from tiphys.controllers.bootstrap.tokens import detached_signature
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

TOKEN: Final = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
CLIENT_SIGNER: Final = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_SIGNER: Final = "kubernetes.io/kubelet-serving"
TOKEN_LIFETIME: Final = 365 * 24 * 3600  # seconds; as long as certificates
POLL: Final = 0.25  # seconds between two looks at a request
SIGNED_WITHIN: Final = 60.0  # seconds
SIGNATURE_WITHIN: Final = 10.0  # seconds
SIGNATURE: Final = "jws-kubeconfig-"
# Component → its service account.
COMPONENTS: Final = {"proxy": "kube-proxy", "network": "tiphys-network"}


@dataclass(frozen=True, slots=True)
class Trust:
    """The cluster as the joining machine has found it."""

    server: str
    ca: bytes  # PEM


def public_key_hash(certificate: bytes) -> str:
    """`sha256:<hex>` of a PEM certificate's public key, as kubeadm prints and checks it."""
    key = x509.load_pem_x509_certificate(certificate).public_key()
    data = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def discover(server: str, token: str, ca_hashes: Sequence[str]) -> Trust:
    """Get the CA from cluster-info and check its signature by the token, and its hash if any are given.

    Raises CommandError when the server cannot be reached or is not the one the token is of.
    """
    found = TOKEN.fullmatch(token)
    if found is None:
        raise CommandError(f'"{token}" is not a bootstrap token: six characters, a dot and sixteen more')
    # Nothing is known yet about who answers: what it says is believed once its signature is checked.
    async with Client(RestConfig(server=server, insecure=True), "tiphys-agent") as client:
        try:
            info = await _signed_info(client, f"{SIGNATURE}{found[1]}")
        except StatusError as error:
            raise CommandError(f"{server} does not tell about its cluster: {error.message}") from error
        except OSError as error:
            raise CommandError(f"cannot reach {server}: {error}") from error
    content = info.data.get("kubeconfig", "")
    signature = info.data.get(f"{SIGNATURE}{found[1]}", "")
    if not signature:
        raise CommandError(f'the token "{found[1]}" is unknown to the cluster or has expired: `tiphys token create`')
    if not hmac.compare_digest(signature, detached_signature(content, found[1], found[2])):
        raise CommandError(f"the token does not fit {server}: another cluster, or somebody between it and here")
    ca = data_or_file(select(yaml.safe_load(content)).cluster, "certificate-authority", Layout.of("x").state)
    if ca_hashes and public_key_hash(ca) not in ca_hashes:
        raise CommandError(f"the cluster's CA has the hash {public_key_hash(ca)}, not {', '.join(ca_hashes)}")
    return Trust(server, ca)


async def _signed_info(client: Client, signature: str) -> ConfigMap:
    """cluster-info, once it has the signature; without it when that does not come: a token may just have been made."""
    info = await client.get(ConfigMap, ObjectName(*CLUSTER_INFO))
    with suppress(TimeoutError):
        async with asyncio.timeout(SIGNATURE_WITHIN):
            while signature not in info.data:
                await asyncio.sleep(POLL)
                info = await client.get(ConfigMap, ObjectName(*CLUSTER_INFO))
    return info


async def join(trust: Trust, token: str, node: str, layout: Layout) -> Mapping[str, str]:
    """Get the identities of a new node and keep them as kubeconfig files; what all nodes have in common.

    Raises CommandError when the cluster refuses, or has a node of this name already.
    """
    config = RestConfig(server=trust.server, ca_data=trust.ca, token=token)
    async with Client(config, "tiphys-agent") as client:
        try:
            await _check_name(client, node)
            settings = (await client.get(ConfigMap, ObjectName(*NODE_CONFIG))).data
            pair = await request_certificate(
                client, CLIENT_SIGNER, f"system:node:{node}", (), ("digital signature", "client auth")
            )
            tokens = {name: await account_token(client, account) for name, account in COMPONENTS.items()}
        except StatusError as error:
            raise CommandError(f"the cluster does not let this machine join: {error.message}") from error
    write_private(layout.pki / "ca.crt", trust.ca, 0o644)
    cluster = settings.get("cluster", "tiphys")
    user = {"client-certificate-data": _base64(pair.certificate), "client-key-data": _base64(pair.key)}
    _write(layout, f"kubelet-{node}", kubeconfig(cluster, trust.server, trust.ca, user))
    for name, found in tokens.items():
        _write(layout, name, kubeconfig(cluster, trust.server, trust.ca, {"token": found}))
    return settings


async def _check_name(client: Client, node: str) -> None:
    with suppress(NotFoundError):
        found = await client.get(Node, ObjectName("", node))
        if any(condition.type == "Ready" and condition.status == "True" for condition in found.status.conditions):
            raise CommandError(f'the cluster has a node "{node}" already; choose another name with --node-name')


async def account_token(client: Client, account: str) -> str:
    """A token of one of the accounts that joined nodes use. Raises StatusError."""
    assert account in ACCOUNTS
    request = TokenRequest(spec=TokenRequestSpec(expiration_seconds=TOKEN_LIFETIME))
    answer = await client.create_subresource(ServiceAccount, ObjectName("kube-system", account), "token", request)
    return answer.status.token


async def request_certificate(
    client: Client,
    signer: str,
    common_name: str,
    names: Sequence[str],
    usages: tuple[str, ...],
    within: float = SIGNED_WITHIN,
) -> KeyPair:
    """Ask the cluster for a certificate of a node and wait until it is signed.

    `names` are DNS names and addresses. Raises CommandError when it is denied or not signed `within` so many seconds.
    """
    key = new_key()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(general_names(names)), critical=False)
    request = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    spec = CertificateSigningRequestSpec(request=request, signer_name=signer, usages=usages)
    made = await client.create(CertificateSigningRequest(metadata=ObjectMeta(generate_name="node-csr-"), spec=spec))
    name = made.metadata.name
    try:
        async with asyncio.timeout(within):
            while not made.status.certificate:
                for condition in made.status.conditions:
                    if condition.type in ("Denied", "Failed"):
                        raise CommandError(f"the request {name} was {condition.type.lower()}: {condition.message}")
                await asyncio.sleep(POLL)
                made = await client.get(CertificateSigningRequest, ObjectName("", name))
    except TimeoutError as error:
        raise CommandError(
            f"nobody has signed the request {name} within {within:.0f} s; "
            f"`kubectl certificate approve {name}` approves it"
        ) from error
    return KeyPair(made.status.certificate, key_pem(key))


def _write(layout: Layout, name: str, document: Mapping[str, Any]) -> None:
    write_private(layout.kubeconfig(name), json.dumps(document, indent=2).encode())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
