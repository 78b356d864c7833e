"""Kubeconfig files: read, choose a context, write.

A kubeconfig is kept as plain data so that fields we do not know survive a rewrite.
https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Selected:
    """One context of a kubeconfig with what it names."""

    context_name: str
    cluster_name: str
    cluster: Mapping[str, Any]
    user: Mapping[str, Any]
    namespace: str


def load(path: str | Path) -> dict[str, Any]:
    """The content of a kubeconfig file. Raises ValueError in one line when it cannot be read or is not one."""
    try:
        document = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"kubeconfig {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"kubeconfig {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ValueError(f"kubeconfig {path}: expected a mapping at the top")
    return document


def select(config: Mapping[str, Any], context: str = "") -> Selected:
    """The cluster and user of `context`, or of current-context. Raises ValueError naming what is missing."""
    name = context or config.get("current-context") or ""
    if not name:
        raise ValueError("kubeconfig: no context is chosen (current-context is empty)")
    chosen = _named(config, "contexts", "context", name)
    cluster_name, user_name = chosen.get("cluster") or "", chosen.get("user") or ""
    return Selected(
        context_name=name,
        cluster_name=cluster_name,
        cluster=_named(config, "clusters", "cluster", cluster_name),
        user=_named(config, "users", "user", user_name) if user_name else {},
        namespace=chosen.get("namespace") or "",
    )


def data_or_file(entry: Mapping[str, Any], key: str, base: Path) -> bytes:
    """A certificate or key: `KEY-data` in base64, or the file that `KEY` names (relative to the kubeconfig)."""
    encoded = entry.get(f"{key}-data")
    if encoded:
        try:
            return base64.b64decode(str(encoded), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"kubeconfig: {key}-data is not base64: {error}") from error
    name = entry.get(key)
    if not name:
        return b""
    try:
        return base.joinpath(str(name)).read_bytes()
    except OSError as error:
        raise ValueError(f"kubeconfig: {key}: {name}: {error.strerror}") from error


def build(
    *,
    name: str,
    server: str,
    ca_data: bytes = b"",
    cert_data: bytes = b"",
    key_data: bytes = b"",
    token: str = "",
    namespace: str = "",
    user: str = "",
) -> dict[str, Any]:
    """A kubeconfig of one cluster, one user and the context `name` joining them."""
    user = user or name
    cluster: dict[str, Any] = {"server": server}
    if ca_data:
        cluster["certificate-authority-data"] = base64.b64encode(ca_data).decode()
    identity: dict[str, Any] = {}
    if cert_data:
        identity["client-certificate-data"] = base64.b64encode(cert_data).decode()
        identity["client-key-data"] = base64.b64encode(key_data).decode()
    if token:
        identity["token"] = token
    context: dict[str, Any] = {"cluster": name, "user": user}
    if namespace:
        context["namespace"] = namespace
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "contexts": [{"name": name, "context": context}],
        "users": [{"name": user, "user": identity}],
        "current-context": name,
        "preferences": {},
    }


def merge(existing: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """`existing` with the entries of `added` put in or replaced by name; the context of `added` becomes current."""
    merged: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "preferences": {}, **existing}
    for section in ("clusters", "contexts", "users"):
        names = {entry["name"] for entry in added.get(section) or ()}
        kept = [entry for entry in existing.get(section) or () if entry.get("name") not in names]
        merged[section] = [*kept, *(added.get(section) or ())]
    merged["current-context"] = added.get("current-context") or existing.get("current-context", "")
    return merged


def write(path: str | Path, config: Mapping[str, Any]) -> None:
    """Write `config` to `path` so that a reader sees the old file or the new one, readable by its owner only."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        yaml.safe_dump(dict(config), file, sort_keys=False)
    temporary.replace(target)


def _named(config: Mapping[str, Any], section: str, key: str, name: str) -> Mapping[str, Any]:
    for entry in config.get(section) or ():
        if isinstance(entry, Mapping) and entry.get("name") == name:
            found = entry.get(key) or {}
            if isinstance(found, Mapping):
                return found
    raise ValueError(f"kubeconfig: {key} {name!r} does not exist")
