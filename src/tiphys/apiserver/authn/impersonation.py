"""Acting as somebody else: the Impersonate-* headers, and the checks each of them needs.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation
"""

from __future__ import annotations

from collections.abc import Mapping
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

_USER: Final = "impersonate-user"
_GROUP: Final = "impersonate-group"
_UID: Final = "impersonate-uid"
_EXTRA: Final = "impersonate-extra-"


def impersonate(user: UserInfo, headers: Mapping[str, str], authorizer: Authorizer) -> UserInfo:
    """The identity a request acts with: `user`, or the one its headers name if `user` may act as that.

    `headers` by lower-case name, repeated ones joined with ", ". Raises StatusError: 403 when `user`
    may not impersonate one of the named things, 400 for groups or extras without a user.
    """
    name = headers.get(_USER, "")
    groups = [group.strip() for group in headers.get(_GROUP, "").split(",") if group.strip()]
    uid = headers.get(_UID, "")
    extra = {
        unquote(header.removeprefix(_EXTRA)): tuple(part.strip() for part in value.split(","))
        for header, value in headers.items()
        if header.startswith(_EXTRA)
    }
    if not name:
        if groups or uid or extra:
            raise bad_request("requested [{} {}] without impersonating a user".format(_GROUP, " ".join(groups)).strip())
        return user
    checks = [_user_check(user, name)]
    checks += [_check(user, "", "groups", group) for group in groups]
    if uid:
        checks.append(_check(user, "authentication.k8s.io", "uids", uid))
    for key, values in extra.items():
        checks += [_check(user, "authentication.k8s.io", "userextras", value, key) for value in values]
    for check in checks:
        decision = authorizer.authorize(check)
        if not decision.allowed:
            raise forbidden_error(check, decision.reason)
    return UserInfo(name, uid, _groups(name, groups), extra)


def _user_check(user: UserInfo, name: str) -> Attributes:
    if name.startswith(USER_PREFIX):
        namespace, _, account = name.removeprefix(USER_PREFIX).partition(":")
        if namespace and account and ":" not in account:
            return _check(user, "", "serviceaccounts", account, namespace=namespace)
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
    if name.startswith(USER_PREFIX) and not groups:
        namespace = name.removeprefix(USER_PREFIX).partition(":")[0]
        found = [ALL_GROUP, f"{ALL_GROUP}:{namespace}"]
    if name == ANONYMOUS:
        if GROUP_ALL_UNAUTHENTICATED not in found:
            found.append(GROUP_ALL_UNAUTHENTICATED)
    elif GROUP_ALL_AUTHENTICATED not in found and GROUP_ALL_UNAUTHENTICATED not in found:
        found.append(GROUP_ALL_AUTHENTICATED)
    return tuple(found)
