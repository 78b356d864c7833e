"""Signed JSON Web Tokens and the keys they are checked with. RFC 7515, 7517, 7518, 7519."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512")
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
# Curve by its name in a key; an ES algorithm belongs to one curve.
_CURVES: Final[dict[str, tuple[type[ec.EllipticCurve], str]]] = {
    "P-256": (ec.SECP256R1, "ES256"),
    "P-384": (ec.SECP384R1, "ES384"),
    "P-521": (ec.SECP521R1, "ES512"),
}


@dataclass(frozen=True, slots=True)
class Token:
    """A token taken apart, not checked yet."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signed: bytes
    signature: bytes

    @property
    def algorithm(self) -> str:
        return str(self.header.get("alg", ""))

    @property
    def key_id(self) -> str:
        return str(self.header.get("kid", ""))


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def parse_token(text: str) -> Token | None:
    """The parts of a token in compact form; None when it is none."""
    parts = text.split(".")
    if len(parts) != 3:
        return None
    try:
        header, claims = orjson.loads(_decoded(parts[0])), orjson.loads(_decoded(parts[1]))
        signature = _decoded(parts[2])
    except ValueError:
        return None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        return None
    return Token(header, claims, f"{parts[0]}.{parts[1]}".encode(), signature)


def keys_of(key_set: Mapping[str, Any]) -> list[tuple[str, Key]]:
    """The signing keys of a JWK set with their ids; keys of other kinds are left out."""
    found = []
    for one in key_set.get("keys") or ():
        if one.get("use") in (None, "sig"):
            key = _key(one)
            if key is not None:
                found.append((str(one.get("kid", "")), key))
    return found


def _number(text: str) -> int:
    return int.from_bytes(_decoded(text), "big")


def _key(one: Mapping[str, Any]) -> Key | None:
    try:
        if one.get("kty") == "RSA":
            return rsa.RSAPublicNumbers(_number(one["e"]), _number(one["n"])).public_key()
        if one.get("kty") == "EC" and one.get("crv") in _CURVES:
            curve = _CURVES[one["crv"]][0]()
            return ec.EllipticCurvePublicNumbers(_number(one["x"]), _number(one["y"]), curve).public_key()
    except (KeyError, ValueError):
        return None
    return None


def verify(token: Token, key: Key) -> bool:
    """Whether the token was signed with the private half of `key`, by the algorithm its header names."""
    algorithm = token.algorithm
    if algorithm not in ALGORITHMS:
        return False
    digest = _HASHES[algorithm[2:]]
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            wanted = next((name for curve, name in _CURVES.values() if isinstance(key.curve, curve)), "")
            size = (key.key_size + 7) // 8
            if algorithm != wanted or len(token.signature) != 2 * size:
                return False
            r, s = (int.from_bytes(half, "big") for half in (token.signature[:size], token.signature[size:]))
            key.verify(encode_dss_signature(r, s), token.signed, ec.ECDSA(digest))
        elif algorithm.startswith("RS"):
            key.verify(token.signature, token.signed, padding.PKCS1v15(), digest)
        elif algorithm.startswith("PS"):
            salted = padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.AUTO)
            key.verify(token.signature, token.signed, salted, digest)
        else:
            return False
    except InvalidSignature:
        return False
    return True
