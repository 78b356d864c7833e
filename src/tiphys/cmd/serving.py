"""`tiphys serving` (a job of `agent`): gets a joined node's kubelet a serving certificate of the cluster's CA.

The kubelet begins with one it signed for itself, since its node must exist before anybody can vouch for its
addresses; once it has the real one it is ended, and the supervisor starts it again. Containers do not notice.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from tiphys.apiserver.pki import RENEW_BEFORE, PkiError, load_certificate, write_private
from tiphys.base.log import get_logger
from tiphys.base.notify import notify_ready
from tiphys.cmd.cluster.join import SERVING_SIGNER, request_certificate
from tiphys.cmd.cluster.process import holder, send
from tiphys.cmd.component import add_common_flags, begin_logging, connect, run
from tiphys.cmd.flags import FlagParser

log = get_logger(__name__)

SIGNED_WITHIN: Final = 600.0  # seconds; then the job fails and begins anew


def main(arguments: Sequence[str]) -> int:
    """Run the job."""
    flags = FlagParser("serving", "Get a kubelet its serving certificate.")
    add_common_flags(flags)
    flags.add_argument("--node-name", required=True, help="the node this runs on")
    flags.listing("names", [], "names and addresses the kubelet is reached at")
    flags.add_argument("--client-ca-file", type=Path, required=True, help="the cluster's CA")
    flags.add_argument("--tls-cert-file", type=Path, required=True, help="where the kubelet has its certificate")
    flags.add_argument("--tls-private-key-file", type=Path, required=True, help="where it has the key")
    flags.add_argument("--kubelet-pid-file", type=Path, required=True, help="the kubelet's pid file")
    options = flags.parse(arguments)
    begin_logging(options.verbosity)

    async def work() -> None:
        if not is_ours(options.tls_cert_file, options.client_ca_file, options.names, datetime.now(UTC)):
            async with connect(options.kubeconfig, "tiphys-agent") as client:
                pair = await request_certificate(
                    client,
                    SERVING_SIGNER,
                    f"system:node:{options.node_name}",
                    options.names,
                    ("digital signature", "server auth"),
                    SIGNED_WITHIN,
                )
            write_private(options.tls_private_key_file, pair.key)
            write_private(options.tls_cert_file, pair.certificate, 0o644)
            log.info("the kubelet has a serving certificate of the cluster")
            pid = holder(options.kubelet_pid_file)
            if pid is not None:
                send(pid, signal.SIGTERM)
        notify_ready()

    return run(work)


def is_ours(certificate: Path, authority: Path, names: Sequence[str], now: datetime) -> bool:
    """Whether there is a certificate of this authority for all of `names` that does not end soon."""
    try:
        found, issuer = load_certificate(certificate), load_certificate(authority)
        found.verify_directly_issued_by(issuer)
        present = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (PkiError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    values = {str(name.value) for name in present}
    return set(names) <= values and found.not_valid_after_utc - RENEW_BEFORE > now
