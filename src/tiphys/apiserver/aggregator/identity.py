"""Who is asking, as headers: an extension server believes them because of the front proxy's certificate.

https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/#original-request-username-and-group
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from tiphys.apiserver.authn.interface import GROUP_MASTERS, UserInfo
from tiphys.machinery.errors import internal_error

# Characters of a header name (RFC 9110, 5.6.2); the rest of an extra's key is percent-encoded.
_TOKEN: Final = "!#$&'*+-.^_`|~"

# As whom this server asks for itself: whether a server is well, what it serves, how it is described.
AGGREGATOR: Final = UserInfo("system:kube-aggregator", groups=(GROUP_MASTERS,))
OPENAPI_AGGREGATOR: Final = UserInfo("system:aggregator")


def identity_headers(user: UserInfo) -> list[tuple[str, str]]:
    """X-Remote-User, -Uid, -Group and -Extra-KEY; a header a value. StatusError (500) for what no header can hold."""
    headers = [("X-Remote-User", user.name)]
    if user.uid:
        headers.append(("X-Remote-Uid", user.uid))
    headers += [("X-Remote-Group", group) for group in user.groups]
    for key, values in user.extra.items():
        name = f"X-Remote-Extra-{quote(key, safe=_TOKEN)}"
        headers += [(name, value) for value in values]
    return [(name, _header_value(value)) for name, value in headers]


def _header_value(value: str) -> str:
    """`value` so that its bytes on the wire are UTF-8; a line break would end the header and begin another."""
    if any(char in value for char in "\r\n\0"):
        raise internal_error("the user's name, groups or extra fields cannot be sent as headers")
    return value.encode().decode("latin-1")
