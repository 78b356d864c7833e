"""What the watch of all pods shows: when each was seen first, was Ready, and went.

Of a pod only what is needed here is decoded; there are a hundred thousand of them, and this process shares the machine
with the cluster it measures.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, Final

import msgspec

from tiphys.api.base import Struct
from tiphys.client import ApiConnectionError, Client, Endpoint, EventType
from tiphys.client.endpoint import ListBody
from tiphys.machinery.errors import StatusError

PAGE: Final = 2000


class _Owner(Struct, frozen=True):
    uid: str = ""
    controller: bool = False


class _Meta(Struct, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    owner_references: tuple[_Owner, ...] = ()
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    finalizers: tuple[str, ...] = ()


class _Spec(Struct, frozen=True):
    node_name: str = ""


class _Condition(Struct, frozen=True):
    type: str = ""
    status: str = ""


class _Status(Struct, frozen=True):
    phase: str = ""
    conditions: tuple[_Condition, ...] = ()
    pod_ip: str = msgspec.field(default="", name="podIP")


class SlimPod(Struct, frozen=True):
    """A pod, as far as it matters here."""

    metadata: _Meta = _Meta()
    spec: _Spec = _Spec()
    status: _Status = _Status()

    @property
    def ready(self) -> bool:
        return any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)

    @property
    def app(self) -> str:
        """Namespace and name of what it belongs to."""
        return f"{self.metadata.namespace}/{self.metadata.labels.get('app', '')}"


_KIND: Final[Any] = SlimPod
PODS: Final[Endpoint[Any]] = Endpoint(
    prefix="/api/v1",
    plural="pods",
    namespaced=True,
    api_version="v1",
    kind="Pod",
    type=_KIND,
    decoder=msgspec.json.Decoder(_KIND),
    list_decoder=msgspec.json.Decoder(ListBody[_KIND]),
)


class Pods:
    """The pods there are, by the watch. Times are those of this process, when it saw them."""

    def __init__(self) -> None:
        self.there: dict[str, SlimPod] = {}  # uid → as seen last
        self.ready: set[str] = set()  # of those
        self.starts: list[float] = []  # seconds from first seen to Ready, since `forget_starts`
        self.began_ready: dict[str, float] = {}
        self.gone = 0
        self.breaks: list[str] = []  # why the watch ended, other than in order
        self.at = time.monotonic()  # when something was seen last
        self._seen: dict[str, float] = {}

    async def load(self, client: Client) -> str:
        """Take in what is there; the revision to follow from."""
        return await self._again(client)

    def forget_starts(self) -> None:
        """Begin to count starts."""
        self.starts = []

    async def follow(self, client: Client, revision: str) -> None:
        """Watch until cancelled; a watch that breaks off is noted and taken up again."""
        while True:
            try:
                async for batch in client.watch_batches(PODS, resource_version=revision):
                    for event in batch:
                        revision = event.resource_version
                        if event.type is not EventType.BOOKMARK:
                            self._note(event.type, event.object)
            except (StatusError, ApiConnectionError) as error:
                self.breaks.append(str(error))
                if getattr(error, "code", 0) == 410:
                    revision = await self._again(client)

    def _note(self, kind: EventType, pod: SlimPod) -> None:
        uid, self.at = pod.metadata.uid, time.monotonic()
        if kind is EventType.DELETED:
            self.gone += self.there.pop(uid, None) is not None
            self.ready.discard(uid)
            self._seen.pop(uid, None)
            return
        self.there[uid] = pod
        since = self._seen.setdefault(uid, self.at)
        if not pod.ready:
            self.ready.discard(uid)
        elif uid not in self.ready:
            self.ready.add(uid)
            if since >= 0:
                self.starts.append(self.at - since)
                self._seen[uid] = -1.0  # a pod that is ready again did not start again

    async def _again(self, client: Client) -> str:
        found, revision = await list_pods(client)
        for uid in set(self.there) - {pod.metadata.uid for pod in found}:
            self._note(EventType.DELETED, self.there[uid])
        for pod in found:
            self._note(EventType.MODIFIED, pod)
        return revision


async def list_pods(client: Client, namespace: str = "", selector: str = "") -> tuple[list[SlimPod], str]:
    """Every pod, a page at a time, and the revision that shows."""
    found: list[SlimPod] = []
    token = revision = ""
    while True:
        page = await client.list(PODS, namespace=namespace, label_selector=selector, limit=PAGE, continue_=token)
        found += page.items
        revision, token = page.resource_version, page.continue_
        if not token:
            return found, revision
