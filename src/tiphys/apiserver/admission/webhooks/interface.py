"""What the webhook plug-ins need of the server: somebody who calls, and somebody who knows versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tiphys.api.table import Resource

Object = dict[str, Any]


class CallError(Exception):
    """A webhook could not be asked; the text says why, as clients are told."""


class WebhookCaller(Protocol):
    """Sends a request to a webhook."""

    async def call(self, config: Mapping[str, Any], body: bytes, timeout: float) -> bytes:
        """POST `body` to the webhook of a `clientConfig`; its answer. `timeout` in seconds. Raises CallError."""


class Versions(Protocol):
    """Knows in which versions objects are served."""

    def storage(self, group: str, plural: str) -> Resource | None:
        """The version in which a resource is kept, and in which plug-ins see it."""

    def served(self, group: str, plural: str) -> Sequence[Resource]:
        """Every version in which the same objects are served, in other groups too."""

    def of_kind(self, group: str, version: str, kind: str) -> Resource | None:
        """The resource of a kind."""

    def convert(self, obj: Object, to: Resource) -> Object:
        """A copy of an object in the version plug-ins see, in another one."""

    def restore(self, obj: Object, given: Resource, wanted: str) -> Object:
        """An object of a served version, defaulted and in normal form, in the version plug-ins see. Raises ValueError.

        `wanted` is the apiVersion of the request, in which they see custom objects.
        """
