"""Who is asking, and may they: authenticators and the list of authorizers, made from options and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiphys.apiserver.access_options import AccessOptions, OidcOptions
from tiphys.apiserver.authn.chain import AuthenticatorChain, TokenChain
from tiphys.apiserver.authn.configuration import Authentication, authentication_of
from tiphys.apiserver.authn.configuration import load_configuration as load_authentication
from tiphys.apiserver.authn.interface import Authenticator
from tiphys.apiserver.authn.issued import Issuers
from tiphys.apiserver.authn.oidc.authenticator import OidcTokens
from tiphys.apiserver.authn.oidc.jose import ALGORITHMS
from tiphys.apiserver.authn.oidc.provider import Provider
from tiphys.apiserver.authn.request_header import RequestHeaders
from tiphys.apiserver.authn.tokens import TokenAuthenticator
from tiphys.apiserver.authn.webhook import WebhookTokens
from tiphys.apiserver.authn.x509 import ClientCertificateAuthenticator
from tiphys.apiserver.authz.abac import AbacAuthorizer
from tiphys.apiserver.authz.configuration import Configured
from tiphys.apiserver.authz.configuration import load_configuration as load_authorization
from tiphys.apiserver.authz.webhook import WebhookOptions
from tiphys.apiserver.configfile import ConfigError, joined, read
from tiphys.apiserver.http.remote import RemoteService
from tiphys.apiserver.options import ServerOptions
from tiphys.base.clock import Clock
from tiphys.machinery.field import quote

MODES = ("AlwaysAllow", "AlwaysDeny", "ABAC", "Webhook", "RBAC", "Node")


@dataclass(frozen=True, slots=True)
class Outside:
    """The token authenticators that ask others, and what the configuration says of anonymous requests."""

    issuers: list[TokenAuthenticator]
    webhook: WebhookTokens | None
    anonymous: bool
    anonymous_paths: frozenset[str]
    configured: Authentication

    @property
    def tokens(self) -> list[TokenAuthenticator]:
        """All, in the order they are asked."""
        return self.issuers if self.webhook is None else [*self.issuers, self.webhook]


def outside(options: ServerOptions, clock: Clock) -> Outside:
    """OIDC issuers and the token webhook. Raises ConfigError, worded as upstream's."""
    access = options.access
    found = _authentication(access, options.service_account_issuer)
    if found.anonymous is not None and access.anonymous_given:
        raise ConfigError(
            "--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration "
            "file"
        )
    webhook = None
    if access.token_webhook is not None:
        service = RemoteService.from_kubeconfig(access.token_webhook)
        version = access.token_webhook_version
        if version not in ("v1", "v1beta1"):
            raise ConfigError(f"unsupported authentication webhook version {quote(version)}")
        webhook = WebhookTokens(service, version, access.token_webhook_ttl, clock)
    anonymous = options.anonymous if found.anonymous is None else found.anonymous
    return Outside(issuers_of(found, clock), webhook, anonymous, found.anonymous_paths, found)


def issuers_of(found: Authentication, clock: Clock) -> list[TokenAuthenticator]:
    """One authenticator for each issuer of a configuration."""
    return [
        OidcTokens(
            Provider(one.url, one.discovery_url, one.ca, clock), one.audiences, one.algorithms, one.mappings, clock
        )
        for one in found.issuers
    ]


def authenticator(
    options: ServerOptions, chain: TokenChain, found: Outside, clock: Clock, authorities: Mapping[Path, Issuers]
) -> AuthenticatorChain:
    """The chain for requests; `authorities` are those of the client CA files that have to be told apart."""
    certificates: list[Authenticator] = []
    issuers = None
    if options.requestheader_ca is not None:
        proxies = authorities[options.requestheader_ca]
        certificates.append(RequestHeaders(proxies, options.requestheader_names, options.access.header_names))
        # TLS trusts proxies too, so whose certificate it is has to be looked at.
        issuers = Issuers([]) if options.client_ca is None else authorities[options.client_ca]
    certificates.append(ClientCertificateAuthenticator(clock, issuers))
    return AuthenticatorChain(certificates, chain, anonymous=found.anonymous, anonymous_paths=found.anonymous_paths)


def authorities_of(options: ServerOptions) -> dict[Path, Issuers]:
    """The authorities by file, where there is more than one kind of them. ConfigError."""
    if options.requestheader_ca is None:
        return {}
    files = [options.requestheader_ca, *([] if options.client_ca is None else [options.client_ca])]
    return {path: Issuers.from_file(path) for path in files}


def _authentication(access: AccessOptions, service_account_issuer: str) -> Authentication:
    oidc = access.oidc
    given = oidc != OidcOptions()
    if access.authentication_config is not None:
        if given:
            raise ConfigError("authentication-config file and oidc-* flags are mutually exclusive")
        return load_authentication(access.authentication_config, service_account_issuer)
    if not given:
        return Authentication()
    if not oidc.issuer_url or not oidc.client_id:
        raise ConfigError("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set")
    unknown = [one for one in oidc.signing_algorithms if one not in ALGORITHMS]
    if unknown:
        raise ConfigError(f"oidc: unsupported signing alg: {quote(unknown[0])}")
    prefix = oidc.username_prefix
    if not prefix:
        # Without one, somebody could choose a name that another issuer's user has; an email says whose it is.
        prefix = "" if oidc.username_claim == "email" else f"{oidc.issuer_url}#"
    mappings: dict[str, Any] = {"username": {"claim": oidc.username_claim, "prefix": "" if prefix == "-" else prefix}}
    if oidc.groups_claim:
        mappings["groups"] = {"claim": oidc.groups_claim, "prefix": oidc.groups_prefix}
    jwt = {
        "issuer": {
            "url": oidc.issuer_url,
            "audiences": [oidc.client_id],
            "certificateAuthority": read(oidc.ca_file).decode() if oidc.ca_file else "",
        },
        "claimMappings": mappings,
        "claimValidationRules": [
            {"claim": claim, "requiredValue": value} for claim, value in sorted(oidc.required_claims.items())
        ],
    }
    return authentication_of({"jwt": [jwt]}, service_account_issuer).with_algorithms(oidc.signing_algorithms)


def authorizers(options: ServerOptions) -> list[Configured]:
    """The authorizers in order. Raises ConfigError, worded as upstream's."""
    access, modes = options.access, options.authorization_modes
    if access.authorization_config is not None:
        if access.modes_given or access.webhook is not None:
            raise ConfigError(
                "--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* "
                "flags are defined"
            )
        return load_authorization(access.authorization_config)
    _check_modes(modes, access)
    return [_of_mode(mode, access) for mode in modes]


def _of_mode(mode: str, access: AccessOptions) -> Configured:
    if mode == "Webhook":
        return _webhook(access)
    if mode == "ABAC":
        assert access.policy_file is not None, "checked before"
        try:
            return Configured(mode, abac=AbacAuthorizer.from_file(access.policy_file))
        except ConfigError as error:
            raise ConfigError(f"invalid authorization config: {error}") from None
    return Configured(mode)


def _check_modes(modes: Sequence[str], access: AccessOptions) -> None:
    problems = [f"authorization-mode {quote(mode)} is not a valid mode" for mode in modes if mode not in MODES]
    if "ABAC" in modes and access.policy_file is None:
        problems.append("authorization-mode ABAC's authorization policy file not passed")
    if "ABAC" not in modes and access.policy_file is not None:
        problems.append("cannot specify --authorization-policy-file without mode ABAC")
    if "Webhook" in modes and access.webhook is None:
        problems.append("authorization-mode Webhook's authorization config file not passed")
    if "Webhook" not in modes and access.webhook is not None:
        problems.append("cannot specify --authorization-webhook-config-file without mode Webhook")
    if len(set(modes)) != len(modes):
        shown = " ".join(map(quote, modes))
        problems.append(f"authorization-mode [{shown}] has mode specified more than once")
    if problems:
        raise ConfigError(joined(problems))


def _webhook(access: AccessOptions) -> Configured:
    assert access.webhook is not None, "checked before"
    version = access.webhook_version
    if version not in ("v1", "v1beta1"):
        raise ConfigError(f"unsupported webhook authorizer version {quote(version)}")
    options = WebhookOptions(
        name="default",
        version=version,
        authorized_ttl=access.webhook_authorized_ttl,
        unauthorized_ttl=access.webhook_unauthorized_ttl,
    )
    return Configured("Webhook", RemoteService.from_kubeconfig(access.webhook), options)
