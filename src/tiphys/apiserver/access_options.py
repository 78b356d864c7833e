"""Who is asking and may they, as flags say it: what configuration files say is read from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tiphys.apiserver.authn.request_header import HeaderNames


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcOptions:
    """The --oidc-* flags: one issuer. `username_prefix` "" is the issuer's URL and "#", "-" is none."""

    issuer_url: str = ""
    client_id: str = ""
    ca_file: Path | None = None
    username_claim: str = "sub"
    username_prefix: str = ""
    groups_claim: str = ""
    groups_prefix: str = ""
    required_claims: Mapping[str, str] = field(default_factory=dict)
    signing_algorithms: tuple[str, ...] = ("RS256",)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessOptions:
    """Times in seconds. `config` files replace the flags for the same things."""

    authentication_config: Path | None = None
    anonymous_given: bool = False  # whether --anonymous-auth was
    oidc: OidcOptions = field(default_factory=OidcOptions)
    token_webhook: Path | None = None
    token_webhook_version: str = "v1beta1"
    token_webhook_ttl: float = 120.0
    header_names: HeaderNames = field(default_factory=HeaderNames)
    authorization_config: Path | None = None
    modes_given: bool = False  # whether --authorization-mode was
    policy_file: Path | None = None  # of ABAC
    webhook: Path | None = None
    webhook_version: str = "v1beta1"
    webhook_authorized_ttl: float = 300.0
    webhook_unauthorized_ttl: float = 30.0
