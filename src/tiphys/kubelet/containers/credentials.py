"""Registry credentials from imagePullSecrets.

https://kubernetes.io/docs/concepts/containers/images/#config-json: a key of `auths` may carry a path
and `*` in its host; the longest match is tried first, then the others.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from tiphys.api.core.v1 import Secret
from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.containers.references import DOCKER_HUB, normalize

CONFIG_JSON: Final = ".dockerconfigjson"
CONFIG: Final = ".dockercfg"
_HUB_ALIASES: Final = frozenset({"index.docker.io", "registry-1.docker.io", "docker.io"})


def credentials_for(image: str, secrets: Iterable[Secret]) -> list[cri.AuthConfig]:
    """What to try for `image`, most specific first; empty: only without credentials."""
    found: list[tuple[int, cri.AuthConfig]] = []
    target = normalize(image)
    for secret in secrets:
        for server, entry in _entries(secret):
            if _matches(server, target):
                found.append((len(server), _auth(server, entry)))
    return [auth for _, auth in sorted(found, key=lambda pair: -pair[0])]


def _entries(secret: Secret) -> Iterable[tuple[str, dict[str, Any]]]:
    try:
        if CONFIG_JSON in secret.data:
            entries = json.loads(secret.data[CONFIG_JSON]).get("auths", {})
        elif CONFIG in secret.data:
            entries = json.loads(secret.data[CONFIG])
        else:
            return
    except (ValueError, AttributeError):
        return  # a broken secret is as good as none; the pull says what is missing
    for server, entry in entries.items():
        if isinstance(entry, dict):
            yield server, entry


def _matches(server: str, target: str) -> bool:
    parts = urlsplit(server if "://" in server else f"//{server}")
    host = DOCKER_HUB if parts.netloc in _HUB_ALIASES else parts.netloc
    path = parts.path.strip("/")
    if path in ("v1", "v2"):  # the registry API's version, not a repository
        path = ""
    domain, _, repository = target.partition("/")
    return (
        fnmatch.fnmatchcase(domain, host)
        and domain.count(".") == host.count(".")
        and (not path or repository == path or repository.startswith((f"{path}/", f"{path}:", f"{path}@")))
    )


def _auth(server: str, entry: dict[str, Any]) -> cri.AuthConfig:
    username, password = entry.get("username", ""), entry.get("password", "")
    if not username and (encoded := entry.get("auth")):
        try:
            username, _, password = base64.b64decode(encoded).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            username = password = ""
    return cri.AuthConfig(
        username=username,
        password=password,
        server_address=server,
        identity_token=entry.get("identitytoken", ""),
        registry_token=entry.get("registrytoken", ""),
    )
