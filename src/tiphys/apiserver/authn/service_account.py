"""Service-account tokens: signed JSON Web Tokens bound to an account, and to a pod, secret or node.

Two forms are accepted. *Bound* tokens (TokenRequest) have an audience and an expiry and end with
the object they are bound to. *Legacy* tokens live in a Secret and never expire.
https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509 import load_pem_x509_certificate

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authn.tokens import InvalidToken, Lookup
from tiphys.apiserver.configfile import ConfigError, read
from tiphys.base.clock import Clock
from tiphys.machinery.time import parse_rfc3339

USER_PREFIX: Final = "system:serviceaccount:"
ALL_GROUP: Final = "system:serviceaccounts"
LEGACY_ISSUER: Final = "kubernetes/serviceaccount"
CREDENTIAL_ID: Final = "authentication.kubernetes.io/credential-id"
POD_NAME: Final = "authentication.kubernetes.io/pod-name"
POD_UID: Final = "authentication.kubernetes.io/pod-uid"
NODE_NAME: Final = "authentication.kubernetes.io/node-name"
NODE_UID: Final = "authentication.kubernetes.io/node-uid"
# A bound token outlives its pod's or secret's deletion by this much (seconds), for graceful termination.
DELETION_GRACE: Final = 60
CLOCK_SKEW: Final = 10  # seconds the issuer's clock may be ahead
_COORDINATE_BYTES: Final = 32  # P-256

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def service_account_user(
    namespace: str, name: str, uid: str = "", extra: Mapping[str, tuple[str, ...]] | None = None
) -> UserInfo:
    """The identity of a service account."""
    groups = (ALL_GROUP, f"{ALL_GROUP}:{namespace}")
    return UserInfo(f"{USER_PREFIX}{namespace}:{name}", uid, groups, extra or {})


@dataclass(frozen=True, slots=True)
class BoundObject:
    """What a token ends with: a Pod, Secret or Node, and for a pod the node it runs on."""

    kind: str
    name: str
    uid: str
    node_name: str = ""
    node_uid: str = ""


def base64url(data: bytes) -> str:
    """RFC 4648 section 5, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _quoted(audiences: Sequence[str]) -> str:
    return "[" + " ".join(f'"{audience}"' for audience in audiences) + "]"


def key_id(key: PublicKey) -> str:
    """The `kid` upstream gives a key: SHA-256 of its DER form, base64url without padding."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64url(hashlib.sha256(der).digest())


def load_private_key(path: Path) -> PrivateKey:
    """The signing key; raises ValueError naming the file when it is neither EC nor RSA."""
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError(f"{path} must hold an RSA or ECDSA private key")
    return key


_PEM: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)


def load_public_keys(path: Path) -> list[PublicKey]:
    """Every key of a PEM file: public keys, and the public halves of private keys and certificates.

    Raises ConfigError naming the file when there is none.
    """
    found: list[PublicKey] = []
    for block in _PEM.finditer(read(path)):
        kind, data = block[1], block[0]
        try:
            if kind == b"CERTIFICATE":
                key: object = load_pem_x509_certificate(data).public_key()
            elif kind.endswith(b"PRIVATE KEY"):
                key = serialization.load_pem_private_key(data, password=None).public_key()
            else:
                key = serialization.load_pem_public_key(data)
        except (ValueError, TypeError):
            continue
        if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            found.append(key)
    if not found:
        raise ConfigError(
            f"error reading public key file {path}: data does not contain any valid RSA or ECDSA public keys"
        )
    return found


class TokenIssuer:
    """Signs tokens."""

    def __init__(self, key: PrivateKey, issuer: str, clock: Clock) -> None:
        self.issuer = issuer
        self._key = key
        self._clock = clock
        self._kid = key_id(key.public_key())

    @property
    def public_key(self) -> PublicKey:
        return self._key.public_key()

    def bound(
        self,
        namespace: str,
        name: str,
        uid: str,
        audiences: Sequence[str],
        lifetime: int,
        bound: BoundObject | None = None,
        warn_after: int = 0,
    ) -> tuple[str, int]:
        """A token for `audiences` that expires after `lifetime` seconds; returns it and its expiry (epoch seconds)."""
        now = int(self._clock.now().timestamp())
        private: dict[str, Any] = {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}}
        if bound is not None:
            private[bound.kind.lower()] = {"name": bound.name, "uid": bound.uid}
            if bound.node_name and bound.kind == "Pod":
                private["node"] = {"name": bound.node_name, "uid": bound.node_uid}
        if warn_after:
            private["warnafter"] = now + warn_after
        claims = {
            "aud": list(audiences),
            "exp": now + lifetime,
            "iat": now,
            "iss": self.issuer,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": private,
            "nbf": now,
            "sub": f"{USER_PREFIX}{namespace}:{name}",
        }
        return self.sign(claims), now + lifetime

    def legacy(self, namespace: str, name: str, uid: str, secret: str) -> str:
        """A token without expiry, for a Secret of type kubernetes.io/service-account-token."""
        prefix = "kubernetes.io/serviceaccount/"
        return self.sign(
            {
                "iss": LEGACY_ISSUER,
                f"{prefix}namespace": namespace,
                f"{prefix}secret.name": secret,
                f"{prefix}service-account.name": name,
                f"{prefix}service-account.uid": uid,
                "sub": f"{USER_PREFIX}{namespace}:{name}",
            }
        )

    def sign(self, claims: Mapping[str, Any]) -> str:
        """The compact form (RFC 7515) of `claims`, signed ES256 or RS256 as the key is."""
        algorithm = "ES256" if isinstance(self._key, ec.EllipticCurvePrivateKey) else "RS256"
        header = {"alg": algorithm, "kid": self._kid}
        signed = ".".join(base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
            signature = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
        else:
            signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{base64url(signature)}"


def token_id(token: str) -> str:
    """The id (claim `jti`) of a token we have signed."""
    return str(orjson.loads(_decode(token.split(".")[1])).get("jti", ""))


def _verify(key: PublicKey, algorithm: str, signed: bytes, signature: bytes) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            if algorithm != "ES256" or len(signature) != 2 * _COORDINATE_BYTES:
                return False
            r, s = (
                int.from_bytes(half, "big") for half in (signature[:_COORDINATE_BYTES], signature[_COORDINATE_BYTES:])
            )
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
        else:
            if algorithm != "RS256":
                return False
            key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


class ServiceAccountTokens:
    """Checks tokens: signature, issuer, times, audience, and that account and bound object are who they were."""

    def __init__(
        self,
        keys: Sequence[PublicKey],
        issuers: Sequence[str],
        api_audiences: Sequence[str],
        lookup: Lookup,
        clock: Clock,
    ) -> None:
        self._keys = {key_id(key): key for key in keys}
        self._issuers = frozenset(issuers)
        self._api_audiences = tuple(api_audiences)
        self._lookup = lookup
        self._clock = clock
        # Signatures already checked: token → claims. Whether the objects still exist is asked every time.
        self._checked: dict[str, dict[str, Any]] = {}

    async def authenticate_token(
        self, token: str, audiences: tuple[str, ...]
    ) -> tuple[UserInfo, tuple[str, ...]] | None:
        claims = self._claims(token)
        if claims is None:
            return None
        if claims.get("iss") == LEGACY_ISSUER:
            return self._legacy_user(claims, token), audiences
        now = self._clock.now().timestamp()
        if now >= claims.get("exp", 0):
            raise InvalidToken("service account token has expired")
        if now + CLOCK_SKEW < claims.get("nbf", 0):
            raise InvalidToken("service account token is not valid yet")
        offered = claims.get("aud") or []
        wanted = audiences or self._api_audiences
        matching = tuple(audience for audience in wanted if audience in offered)
        if not matching:
            raise InvalidToken(
                f"token audiences {_quoted(offered)} is invalid for the target audiences {_quoted(wanted)}"
            )
        return self._bound_user(claims), matching

    def _claims(self, token: str) -> dict[str, Any] | None:
        """The claims of a token we issued; None when it is somebody else's; 401 when it only pretends to be ours."""
        known = self._checked.get(token)
        if known is not None:
            return known
        parts = token.split(".")
        if len(parts) != 3:
            return None
        try:
            # orjson refuses deep nesting with a ValueError, where json would exhaust the stack.
            header, claims = orjson.loads(_decode(parts[0])), orjson.loads(_decode(parts[1]))
            signature = _decode(parts[2])
        except ValueError:
            return None
        if not isinstance(header, dict) or not isinstance(claims, dict):
            return None
        issuer = claims.get("iss")
        if issuer != LEGACY_ISSUER and issuer not in self._issuers:
            return None
        candidate = self._keys.get(str(header.get("kid", "")))
        keys = [candidate] if candidate is not None else list(self._keys.values())
        signed = f"{parts[0]}.{parts[1]}".encode()
        if not any(_verify(key, str(header.get("alg")), signed, signature) for key in keys):
            raise InvalidToken("invalid signature")
        if len(self._checked) >= 10_000:
            self._checked.clear()
        self._checked[token] = claims
        return claims

    def _account(self, namespace: str, name: str, uid: str) -> None:
        account = self._lookup("", "serviceaccounts", namespace, name)
        if account is None or self._gone(account):
            raise InvalidToken(f"service account {namespace}/{name} has been deleted")
        if account["metadata"].get("uid") != uid:
            raise InvalidToken(f"service account UID ({account['metadata'].get('uid')}) does not match claim ({uid})")

    def _legacy_user(self, claims: Mapping[str, Any], token: str) -> UserInfo:
        prefix = "kubernetes.io/serviceaccount/"
        namespace, name, uid, secret_name = (
            str(claims.get(prefix + key, ""))
            for key in ("namespace", "service-account.name", "service-account.uid", "secret.name")
        )
        self._account(namespace, name, uid)
        secret = self._lookup("", "secrets", namespace, secret_name)
        if secret is None or self._gone(secret):
            raise InvalidToken("service account token has been invalidated")
        if base64.b64decode((secret.get("data") or {}).get("token", "")).decode(errors="replace") != token:
            raise InvalidToken("service account token does not match server's copy")
        return service_account_user(namespace, name, uid)

    def _bound_user(self, claims: Mapping[str, Any]) -> UserInfo:
        private = claims.get("kubernetes.io") or {}
        namespace, account = str(private.get("namespace", "")), private.get("serviceaccount") or {}
        name, uid = str(account.get("name", "")), str(account.get("uid", ""))
        self._account(namespace, name, uid)
        extra: dict[str, tuple[str, ...]] = {}
        if "jti" in claims:
            extra[CREDENTIAL_ID] = (f"JTI={claims['jti']}",)
        if "secret" in private:
            self._bound_to("secrets", namespace, private["secret"])
        if "pod" in private:
            self._bound_to("pods", namespace, private["pod"])
            extra[POD_NAME], extra[POD_UID] = (private["pod"]["name"],), (private["pod"]["uid"],)
        if "node" in private:
            if "pod" not in private:
                self._bound_to("nodes", "", private["node"])
            extra[NODE_NAME], extra[NODE_UID] = (private["node"]["name"],), (private["node"]["uid"],)
        return service_account_user(namespace, name, uid, extra)

    def _bound_to(self, resource: str, namespace: str, reference: Mapping[str, Any]) -> None:
        found = self._lookup("", resource, namespace, str(reference.get("name", "")))
        if found is None or found["metadata"].get("uid") != reference.get("uid") or self._gone(found):
            raise InvalidToken(f"service account token has been invalidated: its {resource} is gone")

    def _gone(self, found: Mapping[str, Any]) -> bool:
        deleted = found["metadata"].get("deletionTimestamp")
        if not deleted:
            return False
        return bool(self._clock.now().timestamp() > parse_rfc3339(deleted).timestamp() + DELETION_GRACE)
