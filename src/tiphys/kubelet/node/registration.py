"""Registers the Node and keeps its status current.

A status is made every `nodeStatusUpdateFrequency` (10 s) and when the node's health changes, and
written when it differs or when the last write is `nodeStatusReportFrequency` (5 min) ago; between
writes the lease is the heartbeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from tiphys.api.core.v1 import Node, NodeSpec, NodeStatus, ObjectReference, Taint
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import Client, EventRecorder, PatchType
from tiphys.kubelet.config import KubeletConfiguration, KubeletFlags
from tiphys.kubelet.node.status import StatusFacts, node_status, status_patch, worth_reporting
from tiphys.kubelet.waiting import wait_event
from tiphys.machinery.errors import AlreadyExistsError, StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

ATTACH_DETACH: Final = "volumes.kubernetes.io/controller-managed-attach-detach"
FIRST_RETRY: Final = 0.1  # seconds
LONGEST_RETRY: Final = 7.0
NOT_READY_INTERVAL: Final = 0.5

_CONDITION_EVENTS: Final = {
    ("MemoryPressure", "True"): "NodeHasInsufficientMemory",
    ("MemoryPressure", "False"): "NodeHasSufficientMemory",
    ("DiskPressure", "True"): "NodeHasDiskPressure",
    ("DiskPressure", "False"): "NodeHasNoDiskPressure",
    ("PIDPressure", "True"): "NodeHasInsufficientPID",
    ("PIDPressure", "False"): "NodeHasSufficientPID",
    ("Ready", "True"): "NodeReady",
    ("Ready", "False"): "NodeNotReady",
}


def node_labels(flags: KubeletFlags, architecture: str) -> dict[str, str]:
    """The labels every node has, and those it was given."""
    return {
        "beta.kubernetes.io/arch": architecture,
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture,
        "kubernetes.io/hostname": flags.hostname or flags.node_name,
        "kubernetes.io/os": "linux",
        **flags.node_labels,
    }


class NodeRegistration:
    """The Node object of this kubelet. `facts` makes a fresh measurement for a status."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        clock: Clock,
        config: KubeletConfiguration,
        flags: KubeletFlags,
        facts: Callable[[], Awaitable[StatusFacts]],
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._config = config
        self._flags = flags
        self._facts = facts
        self._reported_at = float("-inf")
        self._now = asyncio.Event()
        self.node: Node | None = None

    @property
    def reference(self) -> ObjectReference:
        """What events about the node refer to."""
        return ObjectReference(kind="Node", name=self._flags.node_name, uid=self._flags.node_name)

    @property
    def ready(self) -> bool:
        """Whether the last status said Ready."""
        conditions = self.node.status.conditions if self.node is not None else ()
        return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)

    def report_soon(self) -> None:
        """The node's health has changed: do not wait for the next turn."""
        self._now.set()

    async def register(self) -> Node:
        """Create the Node or take over the one there is, trying until it works."""
        retry = FIRST_RETRY
        while True:
            try:
                self.node = await self._register_once()
                return self.node
            except (StatusError, OSError) as error:
                log.warning("registering node %s failed: %s", self._flags.node_name, error)
                await self._clock.sleep(retry)
                retry = min(retry * 2, LONGEST_RETRY)

    async def run(self) -> None:
        """Keep the status current until cancelled."""
        while True:
            self._now.clear()
            try:
                await self.report()
            except (StatusError, OSError) as error:
                log.warning("reporting the node's status failed: %s", error)
                await self._clock.sleep(1.0)
                continue
            # A node that is coming up is looked at often, so that it is Ready as soon as it can be.
            pause = self._config.node_status_update_frequency.total_seconds() if self.ready else NOT_READY_INTERVAL
            await wait_event(self._now, self._clock, pause)

    async def report(self) -> None:
        """Make a status and write it if that is worth it. Raises StatusError, OSError."""
        assert self.node is not None
        facts = await self._facts()
        now = self._clock.now()
        before = self.node.status
        fresh = node_status(facts, before, now)
        since = timedelta(seconds=min(self._clock.monotonic() - self._reported_at, 1e6))
        if not worth_reporting(before, fresh, since, self._config.node_status_report_frequency):
            return
        self.node = await self._client.patch(
            Node,
            ObjectName("", self._flags.node_name),
            status_patch(before, fresh),
            patch_type=PatchType.STRATEGIC,
            subresource="status",
        )
        self._reported_at = self._clock.monotonic()
        self._tell(before, fresh)

    def observe(self, node: Node) -> None:
        """The API's Node has changed."""
        self.node = node

    async def _register_once(self) -> Node:
        facts = await self._facts()
        wanted = self._wanted(facts)
        try:
            return await self._client.create(wanted)
        except AlreadyExistsError:
            key = ObjectName("", self._flags.node_name)
            patch: dict[str, Any] = {
                "metadata": {
                    "labels": dict(wanted.metadata.labels),
                    "annotations": dict(wanted.metadata.annotations),
                }
            }
            return await self._client.patch(Node, key, patch, patch_type=PatchType.STRATEGIC)

    def _wanted(self, facts: StatusFacts) -> Node:
        return Node(
            metadata=ObjectMeta(
                name=self._flags.node_name,
                labels=node_labels(self._flags, facts.machine.architecture),
                annotations={ATTACH_DETACH: "true"},
            ),
            spec=NodeSpec(
                provider_id=self._flags.provider_id,
                taints=tuple(msgspec.convert(taint, Taint) for taint in self._config.register_with_taints),
            ),
            status=replace(node_status(facts, NodeStatus(), self._clock.now()), images=()),
        )

    def _tell(self, before: NodeStatus, after: NodeStatus) -> None:
        """Events for conditions that have turned."""
        old = {condition.type: condition.status for condition in before.conditions}
        for condition in after.conditions:
            reason = _CONDITION_EVENTS.get((condition.type, condition.status))
            if reason is not None and old.get(condition.type) != condition.status:
                message = f"Node {self._flags.node_name} status is now: {reason}"
                self._recorder.event(self.reference, "Normal", reason, message)
