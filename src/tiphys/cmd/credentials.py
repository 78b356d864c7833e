"""`tiphys credentials` (a component of `agent`): keeps a joined node's certificates and tokens from running out.

    serving certificate of the kubelet  ─► a CertificateSigningRequest, approved by the cluster's own controller
    client certificate of the kubelet   ─► a CertificateSigningRequest of the node for itself, approved likewise
    tokens of kube-proxy, network agent ─► a TokenRequest of the account for itself

Each is replaced when less than a third of its life is left, and all at once on SIGHUP (`tiphys agent --renew`). Who
uses a new one is ended, and the supervisor starts it again with it; containers do not notice. The kubelet begins with
a serving certificate that it signed for itself: its node must exist before anybody can vouch for its addresses.
https://kubernetes.io/docs/tasks/tls/certificate-rotation/
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from tiphys.apiserver.pki import PkiError, load_certificate, write_private
from tiphys.base.log import get_logger
from tiphys.base.notify import notify_ready
from tiphys.client import ApiConnectionError
from tiphys.cmd.cluster.join import (
    CLIENT_SIGNER,
    COMPONENTS,
    SERVING_SIGNER,
    account_token,
    request_certificate,
)
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.process import holder, send
from tiphys.cmd.component import add_common_flags, begin_logging, connect, run
from tiphys.cmd.errors import CommandError
from tiphys.cmd.flags import FlagParser
from tiphys.machinery.errors import StatusError

log = get_logger(__name__)

LOOK_EVERY: Final = 3600.0  # seconds
RETRY: Final = 30.0  # seconds, after a failure
SIGNED_WITHIN: Final = 600.0  # seconds
LEFT: Final = 1 / 3  # of a life: what has less is replaced


def main(arguments: Sequence[str]) -> int:
    """Run the component."""
    flags = FlagParser("credentials", "Keep a joined node's credentials from running out.")
    add_common_flags(flags, kubeconfig=False)
    flags.add_argument("--name", required=True, help="of the agent")
    flags.add_argument("--state-dir", type=Path, required=True, help="of the agent")
    flags.add_argument("--node-name", required=True, help="the node this runs on")
    flags.listing("names", [], "names and addresses the kubelet is reached at")
    options = flags.parse(arguments)
    begin_logging(options.verbosity)
    found = Credentials(Layout.of(options.name, options.state_dir), options.node_name, options.names)
    return run(lambda: keep(found))


async def keep(credentials: Credentials) -> None:
    """Renew what is due, now and ever after."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    notify_ready()
    while True:
        everything = asked.is_set()
        asked.clear()
        try:
            await credentials.renew(everything=everything)
            pause = LOOK_EVERY
        except (CommandError, StatusError, ApiConnectionError, OSError) as error:
            log.warning("renewing credentials failed, trying again: %s", error)
            pause = RETRY
            if everything:
                asked.set()
                await asyncio.sleep(pause)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await asked.wait()


@dataclass(frozen=True, slots=True)
class Credentials:
    """Those of one joined node. `names`: names and addresses its kubelet is reached at."""

    layout: Layout
    node: str
    names: Sequence[str]

    async def renew(self, *, everything: bool) -> None:
        """Replace what has run for long enough (or `everything`), and end whoever uses it.

        Raises CommandError, StatusError, ApiConnectionError, OSError.
        """
        now = datetime.now(UTC)
        changed = set()
        serving = self.layout.pki / f"kubelet-{self.node}-server.crt"
        if everything or not is_ours(serving, self.layout.pki / "ca.crt", self.names, now):
            await self._serving(serving)
            changed.add("kubelet")
        if everything or due(*_certificate_life(_user(self._kubelet)), now):
            await self._client()
            changed.add("kubelet")
        for component, account in COMPONENTS.items():
            path = self.layout.kubeconfig(component)
            if everything or due(*token_life(_user(path)["token"]), now):
                async with connect(path, "tiphys-agent") as client:
                    _put(path, {"token": await account_token(client, account)})
                changed.add(component)
        for component in sorted(changed):
            log.info("%s has new credentials and is started again", component)
            pid = holder(self.layout.run / "pids" / f"{self.node}@{component}.pid")
            if pid is not None:
                send(pid, signal.SIGTERM)

    @property
    def _kubelet(self) -> Path:
        return self.layout.kubeconfig(f"kubelet-{self.node}")

    async def _serving(self, path: Path) -> None:
        usages = ("digital signature", "server auth")
        async with connect(self._kubelet, "tiphys-agent") as client:
            pair = await request_certificate(
                client, SERVING_SIGNER, f"system:node:{self.node}", self.names, usages, SIGNED_WITHIN
            )
        write_private(path.with_suffix(".key"), pair.key)
        write_private(path, pair.certificate, 0o644)

    async def _client(self) -> None:
        usages = ("digital signature", "client auth")
        async with connect(self._kubelet, "tiphys-agent") as client:
            pair = await request_certificate(
                client, CLIENT_SIGNER, f"system:node:{self.node}", (), usages, SIGNED_WITHIN
            )
        encoded = [base64.b64encode(part).decode() for part in (pair.certificate, pair.key)]
        _put(self._kubelet, dict(zip(("client-certificate-data", "client-key-data"), encoded, strict=True)))


# -- what is due ---------------------------------------------------------------------------------


def due(begin: datetime, end: datetime, now: datetime) -> bool:
    """Whether less than a third is left of a life."""
    return end - now < (end - begin) * LEFT


def is_ours(certificate: Path, authority: Path, names: Sequence[str], now: datetime) -> bool:
    """Whether there is a certificate of this authority for all of `names` that is not due."""
    try:
        found, issuer = load_certificate(certificate), load_certificate(authority)
        found.verify_directly_issued_by(issuer)
        present = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (PkiError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    values = {str(name.value) for name in present}
    return set(names) <= values and not due(found.not_valid_before_utc, found.not_valid_after_utc, now)


def token_life(token: str) -> tuple[datetime, datetime]:
    """From when until when a service account's token holds, as it says itself (RFC 7519)."""
    claims = token.split(".")[1]
    said = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    return datetime.fromtimestamp(said["iat"], UTC), datetime.fromtimestamp(said["exp"], UTC)


def _certificate_life(user: dict[str, Any]) -> tuple[datetime, datetime]:
    found = x509.load_pem_x509_certificate(base64.b64decode(user["client-certificate-data"]))
    return found.not_valid_before_utc, found.not_valid_after_utc


# -- kubeconfig files ----------------------------------------------------------------------------


def _user(path: Path) -> dict[str, Any]:
    return next(_users(json.loads(path.read_text())))


def _put(path: Path, user: dict[str, str]) -> None:
    """Replace the identity in a kubeconfig file."""
    document = json.loads(path.read_text())
    for found in _users(document):
        found.clear()
        found.update(user)
    write_private(path, json.dumps(document, indent=2).encode())


def _users(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in document["users"]:
        yield entry["user"]
