"""Acting as somebody else: the Impersonate-* headers, and the checks each of them needs.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from tiphys.apiserver.authn.interface import (
    ANONYMOUS,
    GROUP_ALL_AUTHENTICATED,
    GROUP_ALL_UNAUTHENTICATED,
    UserInfo,
)
from tiphys.apiserver.authn.service_account import ALL_GROUP, USER_PREFIX
from tiphys.apiserver.authz.interface import Attributes, Authorizer
from tiphys.apiserver.authz.wording import forbidden_error
from tiphys.machinery.errors import bad_request
from tiphys.machinery.field import quote
from tiphys.machinery.formats import dns1123_label, dns1123_subdomain

_USER: Final = "impersonate-user"
_GROUP: Final = "impersonate-group"
_UID: Final = "impersonate-uid"
_EXTRA: Final = "impersonate-extra-"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whom the headers name; `name` "" names nobody."""

    name: str
    uid: str
    groups: tuple[str, ...]
    extra: Mapping[str, tuple[str, ...]]

    def identity(self) -> UserInfo:
        """The identity, with the groups that go with the name."""
        return UserInfo(self.name, self.uid, _groups(self.name, list(self.groups)), self.extra)


def wanted_by(headers: Mapping[str, str]) -> Wanted:
    """Whom `headers`, by lower-case name, repeated ones joined with ", ", name."""
    groups = [group.strip() for group in headers.get(_GROUP, "").split(",") if group.strip()]
    extra = {
        unquote(header.removeprefix(_EXTRA)): tuple(part.strip() for part in value.split(","))
        for header, value in headers.items()
        if header.startswith(_EXTRA)
    }
    return Wanted(headers.get(_USER, ""), headers.get(_UID, ""), tuple(groups), extra)


def service_account_of(name: str) -> tuple[str, str] | None:
    """Namespace and name of the service account a user is; None for others."""
    if not name.startswith(USER_PREFIX):
        return None
    namespace, _, account = name.removeprefix(USER_PREFIX).partition(":")
    if dns1123_label(namespace) or dns1123_subdomain(account):
        return None  # named like one, but there can be none of that name
    return (namespace, account) if namespace and account and ":" not in account else None


def impersonate(user: UserInfo, headers: Mapping[str, str], authorizer: Authorizer) -> UserInfo:
    """The identity a request acts with: `user`, or the one its headers name if `user` may act as that.

    `headers` as in `wanted_by`. Raises StatusError: 403 when `user` may not impersonate one of the named things, 400
    for groups or extras without a user.
    """
    wanted = wanted_by(headers)
    if not wanted.name:
        if wanted.groups or wanted.uid or wanted.extra:
            raise bad_request(f"requested {_as_go(wanted)} without impersonating a user name")
        return user
    checks = [_user_check(user, wanted.name)]
    checks += [_check(user, "", "groups", group) for group in wanted.groups]
    if wanted.uid:
        checks.append(_check(user, "authentication.k8s.io", "uids", wanted.uid))
    for key, values in wanted.extra.items():
        checks += [_check(user, "authentication.k8s.io", "userextras", value, key) for value in values]
    for check in checks:
        decision = authorizer.authorize(check)
        if not decision.allowed:
            raise forbidden_error(check, decision.reason)
    return wanted.identity()


def _as_go(wanted: Wanted) -> str:
    """The headers as upstream shows them: a Go value."""

    def strings(values: tuple[str, ...]) -> str:
        return "[]string{" + ", ".join(map(quote, values)) + "}" if values else "[]string(nil)"

    extra = ", ".join(f"{quote(key)}:{strings(values)}" for key, values in sorted(wanted.extra.items()))
    shown = "map[string][]string" + ("{" + extra + "}" if extra else "(nil)")
    return f'&user.DefaultInfo{{Name:"", UID:{quote(wanted.uid)}, Groups:{strings(wanted.groups)}, Extra:{shown}}}'


def _user_check(user: UserInfo, name: str) -> Attributes:
    account = service_account_of(name)
    if account is not None:
        return _check(user, "", "serviceaccounts", account[1], namespace=account[0])
    return _check(user, "", "users", name)


def _check(
    user: UserInfo, group: str, resource: str, name: str, subresource: str = "", namespace: str = ""
) -> Attributes:
    return Attributes(
        user=user,
        verb="impersonate",
        resource_request=True,
        api_group=group,
        api_version="v1" if group else "",
        resource=resource,
        subresource=subresource,
        name=name,
        namespace=namespace,
    )


def _groups(name: str, groups: list[str]) -> tuple[str, ...]:
    found = list(groups)
    account = service_account_of(name)
    if account is not None and not groups:
        found = [ALL_GROUP, f"{ALL_GROUP}:{account[0]}"]
    if name == ANONYMOUS:
        if GROUP_ALL_UNAUTHENTICATED not in found:
            found.append(GROUP_ALL_UNAUTHENTICATED)
    elif GROUP_ALL_AUTHENTICATED not in found and GROUP_ALL_UNAUTHENTICATED not in found:
        found.append(GROUP_ALL_AUTHENTICATED)
    return tuple(found)
