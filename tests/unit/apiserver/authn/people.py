"""What authenticators are given in these tests."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Asking:
    """The credentials of a request."""

    headers: Mapping[str, str] = field(default_factory=dict)
    peer_certificate: bytes | None = None
    remote_address: str = "192.0.2.1"


class Objects(dict[tuple[str, str, str], dict[str, Any]]):
    """Objects by (resource, namespace, name); callable as a `Lookup`."""

    def __call__(self, group: str, resource: str, namespace: str, name: str) -> dict[str, Any] | None:
        return self.get((resource, namespace, name))

    def put(self, resource: str, namespace: str, name: str, uid: str = "u", **rest: Any) -> dict[str, Any]:
        obj = {"metadata": {"name": name, "namespace": namespace, "uid": uid}, **rest}
        self[resource, namespace, name] = obj
        return obj


def encoded(**data: str) -> dict[str, str]:
    """Data of a Secret."""
    return {key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in data.items()}
