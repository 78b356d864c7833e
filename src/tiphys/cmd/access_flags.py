"""The API server's flags for who is asking and whether they may: OIDC, webhooks, configuration files, proxies."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from tiphys.apiserver.access_options import AccessOptions, OidcOptions
from tiphys.apiserver.authn.request_header import HeaderNames
from tiphys.cmd.flags import FlagParser, duration, key_values


class _Pairs(argparse.Action):
    """`--flag a=b --flag c=d`, also with commas."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), **values})


def add_access_flags(flags: FlagParser) -> None:
    """Add them all."""
    text = "AuthenticationConfiguration: issuers of tokens, anonymous requests"
    flags.add_argument("--authentication-config", type=Path, help=text)
    flags.add_argument("--oidc-issuer-url", default="", help="issuer of OpenID Connect tokens; https only")
    flags.add_argument("--oidc-client-id", default="", help="audience the tokens must be for")
    flags.add_argument("--oidc-ca-file", type=Path, help="authority of the issuer's certificate")
    flags.add_argument("--oidc-username-claim", default="sub", help="claim that is the user's name")
    text = 'what names are prefixed with: by default the issuer and "#", but for emails; "-" is nothing'
    flags.add_argument("--oidc-username-prefix", default="", help=text)
    flags.add_argument("--oidc-groups-claim", default="", help="claim that is the user's groups")
    flags.add_argument("--oidc-groups-prefix", default="", help="what groups are prefixed with")
    text = "claim=value that a token must have; may be repeated"
    flags.add_argument("--oidc-required-claim", type=key_values, default={}, action=_Pairs, help=text)
    flags.listing("oidc-signing-algs", ["RS256"], "algorithms tokens may be signed with")
    text = "kubeconfig of a service that knows tokens"
    flags.add_argument("--authentication-token-webhook-config-file", type=Path, help=text)
    flags.add_argument("--authentication-token-webhook-version", default="v1beta1", help="of its TokenReviews")
    text = "how long its answers are remembered"
    ttl = timedelta(minutes=2)
    flags.add_argument("--authentication-token-webhook-cache-ttl", type=duration, default=ttl, help=text)
    flags.listing("requestheader-username-headers", ["X-Remote-User"], "headers of the front proxy with the user")
    flags.listing("requestheader-uid-headers", [], "headers with the user's uid")
    flags.listing("requestheader-group-headers", ["X-Remote-Group"], "headers with the groups")
    flags.listing("requestheader-extra-headers-prefix", ["X-Remote-Extra-"], "prefixes of headers with more")
    _add_authorization_flags(flags)


def _add_authorization_flags(flags: FlagParser) -> None:
    flags.add_argument("--authorization-config", type=Path, help="AuthorizationConfiguration: authorizers, in order")
    text = "policies, one JSON object a line, for mode ABAC"
    flags.add_argument("--authorization-policy-file", type=Path, help=text)
    text = "kubeconfig of a service that judges requests, for mode Webhook"
    flags.add_argument("--authorization-webhook-config-file", type=Path, help=text)
    flags.add_argument("--authorization-webhook-version", default="v1beta1", help="of its SubjectAccessReviews")
    for kind, ttl in (("authorized", timedelta(minutes=5)), ("unauthorized", timedelta(seconds=30))):
        name, text = f"--authorization-webhook-cache-{kind}-ttl", f"how long '{kind}' is remembered"
        flags.add_argument(name, type=duration, default=ttl, help=text)


def access_options(found: Any, given: Sequence[str]) -> AccessOptions:
    """The flags as values; `given` are the command's arguments."""

    def was_given(flag: str) -> bool:
        return any(one == flag or one.startswith(f"{flag}=") for one in given)

    def lower(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name.lower() for name in names)

    return AccessOptions(
        authentication_config=found.authentication_config,
        anonymous_given=was_given("--anonymous-auth"),
        oidc=OidcOptions(
            issuer_url=found.oidc_issuer_url,
            client_id=found.oidc_client_id,
            ca_file=found.oidc_ca_file,
            username_claim=found.oidc_username_claim,
            username_prefix=found.oidc_username_prefix,
            groups_claim=found.oidc_groups_claim,
            groups_prefix=found.oidc_groups_prefix,
            required_claims=found.oidc_required_claim,
            signing_algorithms=tuple(found.oidc_signing_algs),
        ),
        token_webhook=found.authentication_token_webhook_config_file,
        token_webhook_version=found.authentication_token_webhook_version,
        token_webhook_ttl=found.authentication_token_webhook_cache_ttl.total_seconds(),
        header_names=HeaderNames(
            username=lower(found.requestheader_username_headers),
            uid=lower(found.requestheader_uid_headers),
            groups=lower(found.requestheader_group_headers),
            extra_prefixes=lower(found.requestheader_extra_headers_prefix),
        ),
        authorization_config=found.authorization_config,
        modes_given=was_given("--authorization-mode"),
        policy_file=found.authorization_policy_file,
        webhook=found.authorization_webhook_config_file,
        webhook_version=found.authorization_webhook_version,
        webhook_authorized_ttl=found.authorization_webhook_cache_authorized_ttl.total_seconds(),
        webhook_unauthorized_ttl=found.authorization_webhook_cache_unauthorized_ttl.total_seconds(),
    )
