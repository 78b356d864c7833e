"""Making pods from a template and deleting them, with the events that say so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tiphys.api.core.v1 import Pod, PodTemplateSpec
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import NORMAL, WARNING, Client, EventRecorder, Object, Preconditions, key_of
from tiphys.controllers.common.owners import controller_reference
from tiphys.machinery.errors import ForbiddenError, NotFoundError, StatusError

T = TypeVar("T")

# Pods one controller makes or deletes at the same time. More would not be faster, but everybody else's requests would
# stand behind them: a set of thousands of pods must not cost others the second within which they expect an answer.
AT_ONCE: Final = 32


def pod_from_template(
    template: PodTemplateSpec,
    owner: Object,
    *,
    name: str = "",
    generate_name: str = "",
    extra_labels: Mapping[str, str] | None = None,
    extra_annotations: Mapping[str, str] | None = None,
    extra_finalizers: Sequence[str] = (),
) -> Pod:
    """A pod of `template` that `owner` controls; without a name the server makes one from `generate_name`."""
    meta = template.metadata or ObjectMeta()
    return Pod(
        metadata=ObjectMeta(
            namespace=owner.metadata.namespace,
            name=name,
            generate_name="" if name else generate_name,
            labels={**meta.labels, **(extra_labels or {})},
            annotations={**meta.annotations, **(extra_annotations or {})},
            finalizers=(*meta.finalizers, *extra_finalizers),
            owner_references=(controller_reference(owner),),
        ),
        spec=template.spec,
    )


@dataclass(frozen=True, slots=True)
class PodControl:
    """Creates and deletes pods for one controller."""

    client: Client
    recorder: EventRecorder
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def create(self, pod: Pod, owner: Object) -> Pod:
        """Create and record it. Raises StatusError; nothing is recorded where the namespace is going away."""
        try:
            async with self._gate:
                created = await self.client.create(pod)
        except StatusError as error:
            if not namespace_terminating(error):
                self.recorder.event(owner, WARNING, "FailedCreate", f"Error creating: {error.message}")
            raise
        self.recorder.event(owner, NORMAL, "SuccessfulCreate", f"Created pod: {created.metadata.name}")
        return created

    async def delete(self, pod: Pod, owner: Object) -> None:
        """Delete exactly this pod and record it; one already gone is fine."""
        only_if = Preconditions(uid=pod.metadata.uid)
        try:
            with suppress(NotFoundError):
                async with self._gate:
                    await self.client.delete(Pod, key_of(pod), only_if=only_if)
        except StatusError as error:
            self.recorder.event(owner, WARNING, "FailedDelete", f"Error deleting: {error.message}")
            raise
        self.recorder.event(owner, NORMAL, "SuccessfulDelete", f"Deleted pod: {pod.metadata.name}")


def namespace_terminating(error: StatusError) -> bool:
    """Whether a creation failed because the namespace is being deleted: trying again is useless."""
    if not isinstance(error, ForbiddenError):
        return False
    causes = (error.status.get("details") or {}).get("causes") or ()
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


async def slow_start(count: int, work: Callable[[int], Awaitable[None]]) -> tuple[int, Exception | None]:
    """Do `work(0)` … `work(count - 1)` in batches of 1, 2, 4, …, stopping after a batch with a failure.

    So a quota that refuses one pod is not asked for five hundred. Returns how many succeeded and the
    first error.
    """
    done, batch = 0, 1
    started = 0
    while started < count:
        batch = min(batch, count - started)
        results = await asyncio.gather(*(work(started + i) for i in range(batch)), return_exceptions=True)
        started += batch
        failures = [result for result in results if isinstance(result, BaseException)]
        done += batch - len(failures)
        if failures:
            first = failures[0]
            if not isinstance(first, Exception):
                raise first
            return done, first
        batch *= 2
    return done, None
