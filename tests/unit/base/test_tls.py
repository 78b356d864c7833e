from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tiphys.apiserver.pki import Authority
from tiphys.base.tls import client_context

AUTHORITY = Authority.create("an-authority")
PAIR = AUTHORITY.server("service", ["localhost"])
STRANGER = Authority.create("a-stranger").server("service", ["localhost"])


def shake_hands(context: ssl.SSLContext, directory: Path) -> None:
    """Between a client with `context` and the service, in memory; raises what the client finds."""
    files = directory / "service.crt", directory / "service.key"
    for file, data in zip(files, (PAIR.certificate, PAIR.key), strict=True):
        file.write_bytes(data)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*files)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(back, there, server_hostname="localhost")
    server = serving.wrap_bio(there, back, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass


@pytest.mark.parametrize(
    ("trusted", "good"),
    [(AUTHORITY.pem, True), (PAIR.certificate, True), (STRANGER.certificate, False)],
    ids=["its authority", "the certificate itself", "another certificate"],
)
def test_every_certificate_of_a_bundle_is_an_anchor(trusted: bytes, good: bool, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(trusted)
    for context in (client_context(authorities=trusted.decode()), client_context(file=tmp_path / "ca.crt")):
        if good:
            shake_hands(context, tmp_path)
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                shake_hands(context, tmp_path)
