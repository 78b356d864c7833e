"""Signing of the tokens in legacy secrets: a JSON Web Token without an end (RFC 7515, RFC 7518)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

_CURVES: dict[int, tuple[str, hashes.HashAlgorithm]] = {
    256: ("ES256", hashes.SHA256()),
    384: ("ES384", hashes.SHA384()),
    521: ("ES512", hashes.SHA512()),
}


class Signer:
    """Signs with one private key in PEM, RSA or elliptic curve. Raises ValueError for any other."""

    def __init__(self, pem: bytes) -> None:
        key = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise ValueError("the service account key must be an RSA or EC key")
        self._key = key
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        # The key id as every Kubernetes server computes it, so that verifiers find the key.
        self._key_id = _encode(hashlib.sha256(public).digest())

    def sign(self, claims: Mapping[str, Any]) -> str:
        """The compact form of a token with these claims."""
        key = self._key
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else _CURVES[key.curve.key_size][0]
        header = {"alg": algorithm, "kid": self._key_id}
        content = f"{_json(header)}.{_json(claims)}".encode()
        if isinstance(key, rsa.RSAPrivateKey):
            signature = key.sign(content, padding.PKCS1v15(), hashes.SHA256())
        else:
            der = key.sign(content, ec.ECDSA(_CURVES[key.curve.key_size][1]))
            size = (key.curve.key_size + 7) // 8
            r, s = utils.decode_dss_signature(der)
            signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
        return f"{content.decode()}.{_encode(signature)}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _json(value: Mapping[str, Any]) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())
