"""How often values are opened and sealed, and by which provider, under upstream's name.

https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

from typing import Final

from tiphys.apiserver.encryption.transformer import FirstWrites, TransformError
from tiphys.base.metrics import REGISTRY, CounterValue

FROM_STORAGE: Final = "from_storage"
TO_STORAGE: Final = "to_storage"
OPERATIONS: Final = REGISTRY.counter(
    "apiserver_storage_transformation_operations_total",
    "Total number of transformations. Successful transformation will have a status 'OK' and a varied status "
    "string when the transformation fails.",
    ("resource", "status", "transformation_type", "transformer_prefix"),
)
FAILED: Final = ("unknown-non-grpc", "unknown")  # status and prefix, as upstream has them


class Counted:
    """The transformer of one resource. See `Transformer`."""

    def __init__(self, inner: FirstWrites, resource: str) -> None:
        """`resource` with its group, as `deployments.apps`."""
        self._inner = inner
        self._resource = resource
        self._known: dict[tuple[str, str, str], CounterValue] = {}

    def open(self, stored: bytes, context: bytes) -> tuple[bytes, bool]:
        try:
            opened = self._inner.open(stored, context)
        except TransformError:
            self._count(FROM_STORAGE, *FAILED)
            raise
        prefix = next((one.prefix for one in self._inner.choices if stored.startswith(one.prefix)), b"")
        self._count(FROM_STORAGE, "OK", prefix.decode())
        return opened

    def seal(self, value: bytes, context: bytes) -> bytes:
        try:
            sealed = self._inner.seal(value, context)
        except TransformError:
            self._count(TO_STORAGE, *FAILED)
            raise
        self._count(TO_STORAGE, "OK", self._inner.choices[0].prefix.decode())
        return sealed

    def _count(self, direction: str, status: str, prefix: str) -> None:
        key = (status, direction, prefix)
        counter = self._known.get(key)
        if counter is None:
            counter = self._known[key] = OPERATIONS.labels(self._resource, *key)
        counter.inc()
