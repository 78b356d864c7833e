"""Constrained impersonation: acting as somebody, but only for what the one who acts has been allowed to do as others.

Two questions instead of one (KEP-5284): may `user` do this as somebody else of that sort (`impersonate-on:MODE:VERB` on
what is asked for), and may it be this one (`impersonate:MODE` on users, groups, … of authentication.k8s.io)? Who was
given the older verb `impersonate` may do everything as the other, as before.

    serviceaccount    a service account, with nothing but its name       arbitrary-node   a node, likewise
    user-info         anybody else, also with groups, uid and extra
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from tiphys.apiserver.authn.impersonation import Wanted, impersonate, service_account_of, wanted_by
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.interface import Attributes, Authorizer
from tiphys.apiserver.authz.wording import forbidden_error
from tiphys.machinery.errors import ForbiddenError, StatusError
from tiphys.machinery.field import quote

GROUP: Final = "authentication.k8s.io"
NODE_PREFIX: Final = "system:node:"
NODES: Final = "system:nodes"
SERVICE_ACCOUNT, NODE, USER_INFO = "serviceaccount", "arbitrary-node", "user-info"


def act_as(
    user: UserInfo, headers: Mapping[str, str], authorizer: Authorizer, asked: Attributes
) -> tuple[UserInfo, str]:
    """The identity a request acts with, and the constraint that let it ("" when none had to).

    `asked`: what the request asks for, whoever does. Raises StatusError: 403 when it may not be, 400 for headers
    that name nobody.
    """
    wanted = wanted_by(headers)
    mode = _mode(wanted) if wanted.name else ""
    if not mode:
        return impersonate(user, headers, authorizer), ""
    refusal = _refusal(user, wanted, mode, authorizer, asked)
    if refusal is None:
        found = wanted.identity()
        if mode == NODE:
            found = replace(found, groups=(NODES, *found.groups))
        return found, f"impersonate:{mode}"
    try:
        return impersonate(user, headers, authorizer), ""
    except ForbiddenError:
        raise refusal from None


def _mode(wanted: Wanted) -> str:
    plain = not (wanted.groups or wanted.uid or wanted.extra)
    if service_account_of(wanted.name):
        return SERVICE_ACCOUNT if plain else ""
    if wanted.name.startswith(NODE_PREFIX):
        return NODE if plain else ""
    return USER_INFO


def _refusal(
    user: UserInfo, wanted: Wanted, mode: str, authorizer: Authorizer, asked: Attributes
) -> StatusError | None:
    on = replace(asked, user=user, verb=f"impersonate-on:{mode}:{asked.verb}")
    for question in (on, *_identity(user, wanted, mode)):
        decision = authorizer.authorize(question)
        if not decision.allowed:
            return forbidden_error(question, decision.reason)
    for key in wanted.extra:
        if "/" not in key.strip("/"):
            message = (
                "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: "
                f'{quote(key)}: must be a domain-prefixed path (such as "acme.io/foo")'
            )
            return forbidden_error(_question(user, mode, "userextras"), message)
    return None


def _identity(user: UserInfo, wanted: Wanted, mode: str) -> Iterator[Attributes]:
    if mode == SERVICE_ACCOUNT:
        namespace, name = service_account_of(wanted.name) or ("", "")
        yield _question(user, mode, "serviceaccounts", name, namespace=namespace)
        return
    if mode == NODE:
        yield _question(user, mode, "nodes", wanted.name.removeprefix(NODE_PREFIX))
        return
    yield _question(user, mode, "users", wanted.name)
    for group in wanted.groups:
        yield _question(user, mode, "groups", group)
    if wanted.uid:
        yield _question(user, mode, "uids", wanted.uid)
    for key, values in wanted.extra.items():
        for value in values:
            yield _question(user, mode, "userextras", value, subresource=key)


def _question(
    user: UserInfo, mode: str, resource: str, name: str = "", *, subresource: str = "", namespace: str = ""
) -> Attributes:
    return Attributes(
        user=user,
        verb=f"impersonate:{mode}",
        resource_request=True,
        api_group=GROUP,
        api_version="v1",
        resource=resource,
        subresource=subresource,
        name=name,
        namespace=namespace,
    )
