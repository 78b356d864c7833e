"""The node's heartbeat: its Lease in kube-node-lease.

https://kubernetes.io/docs/concepts/architecture/nodes/#node-heartbeats: renewed every ten seconds (a
quarter of its duration); after a failure sooner.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from tiphys.api.coordination.v1 import Lease, LeaseSpec
from tiphys.api.meta.v1 import ObjectMeta, OwnerReference
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import Client
from tiphys.machinery.errors import ConflictError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

NAMESPACE: Final = "kube-node-lease"
FIRST_RETRY: Final = 0.2  # seconds
LONGEST_RETRY: Final = 7.0


class NodeLease:
    """Keeps the lease of one node renewed."""

    def __init__(self, client: Client, node_name: str, node_uid: str, clock: Clock, duration: int) -> None:
        self._client = client
        self._name = ObjectName(NAMESPACE, node_name)
        self._uid = node_uid
        self._clock = clock
        self._duration = duration
        self._last: Lease | None = None

    async def run(self) -> None:
        """Renew until cancelled."""
        retry = FIRST_RETRY
        while True:
            try:
                await self.renew()
                retry = FIRST_RETRY
                await self._clock.sleep(self._duration * 0.25)
            except (StatusError, OSError) as error:
                log.warning("renewing the node's lease failed: %s", error)
                await self._clock.sleep(retry)
                retry = min(retry * 2, LONGEST_RETRY)

    async def renew(self) -> None:
        """One heartbeat. Raises StatusError, OSError."""
        if self._last is not None:
            try:
                spec = replace(self._last.spec, renew_time=self._clock.now())
                self._last = await self._client.update(replace(self._last, spec=spec))
                return
            except (ConflictError, NotFoundError):
                self._last = None  # somebody else wrote or removed it: begin from what is there
        try:
            found = await self._client.get(Lease, self._name)
        except NotFoundError:
            self._last = await self._client.create(self._fresh())
            return
        spec = replace(
            found.spec,
            holder_identity=self._name.name,
            lease_duration_seconds=self._duration,
            renew_time=self._clock.now(),
        )
        self._last = await self._client.update(replace(found, spec=spec))

    def _fresh(self) -> Lease:
        owner = OwnerReference(api_version="v1", kind="Node", name=self._name.name, uid=self._uid)
        return Lease(
            metadata=ObjectMeta(name=self._name.name, namespace=NAMESPACE, owner_references=(owner,)),
            spec=LeaseSpec(
                holder_identity=self._name.name,
                lease_duration_seconds=self._duration,
                renew_time=self._clock.now(),
            ),
        )
