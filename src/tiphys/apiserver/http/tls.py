"""The TLS identity of the server and whom it trusts, both of which may change while it serves."""

from __future__ import annotations

import ssl
from collections.abc import Callable


class ReloadingTls:
    """A server context, and the one new connections get in its place after a change."""

    def __init__(self, make: Callable[[], ssl.SSLContext]) -> None:
        """`make` reads the files: OSError or ssl.SSLError when one is missing or wrong."""
        self._make = make
        self.context = make()
        self._current = self.context
        self.context.sni_callback = self._choose

    def reload(self) -> None:
        """Read the files again; connections that are open stay as they are. ValueError when they cannot be used."""
        try:
            self._current = self._make()
        except ssl.SSLError as error:
            raise ValueError(str(error)) from None

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        # Called in every handshake, also of clients that do not say whom they want.
        if self._current is not context:
            connection.context = self._current
