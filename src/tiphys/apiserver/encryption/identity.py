"""identity: values as they are. It refuses to take for a value what somebody has sealed."""

from __future__ import annotations

from tiphys.apiserver.encryption.transformer import TransformError
from tiphys.apiserver.watchcache.unreadable import why_unreadable


class Identity:
    """See `Transformer`."""

    def open(self, stored: bytes, context: bytes) -> tuple[bytes, bool]:
        why = why_unreadable(stored)
        if why is not None:
            raise TransformError(why)
        return stored, False

    def seal(self, value: bytes, context: bytes) -> bytes:
        return value
