"""Deletes requests that are done with: an hour after a decision, a day without one, or expired."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from tiphys.api.certificates.v1 import CertificateSigningRequest
from tiphys.client import DONE, Controller, RequeueAfter, Result, enqueue
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

DECIDED: Final = timedelta(hours=1)
PENDING: Final = timedelta(hours=24)
_DECISIONS: Final = ("Approved", "Denied", "Failed")


def time_left(csr: CertificateSigningRequest, now: datetime) -> timedelta:
    """Time until the request may be deleted; zero or less: now."""
    ends = []
    if csr.metadata.creation_timestamp is not None:
        # A request nobody decides, and one that was approved but never signed, goes after a day.
        ends.append(csr.metadata.creation_timestamp + PENDING)
    for condition in csr.status.conditions:
        waits_for_signer = condition.type == "Approved" and not csr.status.certificate
        if condition.type in _DECISIONS and not waits_for_signer:
            moment = condition.last_update_time or condition.last_transition_time
            if moment is not None:
                ends.append(moment + DECIDED)
    if csr.status.certificate:
        with suppress(ValueError):
            ends.append(x509.load_pem_x509_certificate(bytes(csr.status.certificate)).not_valid_after_utc)
    return min(ends) - now if ends else PENDING


class CSRCleanerController(Controller[ObjectName]):
    """The controller `certificatesigningrequest-cleaner-controller`."""

    name = "csrcleaner"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._requests = context.informers.of(CertificateSigningRequest)
        super().__init__(context.clock, (self._requests,))
        enqueue(self.queue, self._requests)

    async def sync(self, key: ObjectName) -> Result:
        """Delete one request when its time has come."""
        csr = self._requests.lister.get(key)
        if csr is None:
            return DONE
        left = time_left(csr, self.clock.now())
        if left > timedelta(0):
            return RequeueAfter(left)
        with suppress(NotFoundError):
            await self._client.delete(CertificateSigningRequest, key)
        return DONE
