"""TLS contexts of clients, as Kubernetes' clients verify servers."""

from __future__ import annotations

import ssl
from pathlib import Path


def client_context(*, authorities: str = "", file: Path | str | None = None) -> ssl.SSLContext:
    """A context that trusts the certificates of `authorities` (PEM) and of `file`; without any, those of the system.

    Every one of them is a trust anchor: also an intermediate authority and a server's own certificate, which bundles
    of webhooks often hold. OpenSSL would by itself want the chain up to a root; Go, whose programs wrote the bundles,
    does not (RFC 5280, section 6.1: what an anchor is, is a matter of policy). Raises ssl.SSLError, OSError.
    """
    context = ssl.create_default_context(cadata=authorities or None, cafile=str(file) if file else None)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
