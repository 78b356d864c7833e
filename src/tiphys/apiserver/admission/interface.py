"""Admission: what stands between a well-formed write and the registry.

Mutating plug-ins (`admit`) run in the order of the table and may change `attributes.object`; validating ones
(`validate`) run after the strategy's own validation and only judge. A plug-in refuses by raising a StatusError.
See https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar

from tiphys.apiserver.admission.metrics import ADMIT, VALIDATE, plugin_time, step_time
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.interface import Undecided
from tiphys.base.metrics import HistogramValue
from tiphys.machinery.errors import StatusError
from tiphys.machinery.meta import GroupVersionKind, GroupVersionResource


class Operation(StrEnum):
    """What is done to the object; CONNECT is exec, attach, port-forward and proxy."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    CONNECT = "CONNECT"


@dataclass(slots=True, kw_only=True)
class AdmissionAttributes:
    """One write as admission sees it. `object` is changed in place by mutating plug-ins, `old_object` never."""

    operation: Operation
    kind: GroupVersionKind
    resource: GroupVersionResource
    subresource: str
    namespace: str
    name: str
    object: dict[str, Any] | None
    old_object: dict[str, Any] | None
    user: UserInfo
    dry_run: bool
    options: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    # Plug-ins leave notes for audit here ("pod-security.kubernetes.io/enforce-policy" …).
    annotations: dict[str, str] = field(default_factory=dict)
    # Set by a plug-in that has changed the object so that earlier plug-ins should see it again; once a write.
    reinvoke: bool = False
    is_reinvocation: bool = False
    # What plug-ins remember between invocations for the same write, by their name.
    memory: dict[str, Any] = field(default_factory=dict)


class Plugin(Protocol):
    """One admission plug-in. `admit` may change the object, `validate` may not; either may be a no-op."""

    name: str

    def handles(self, attributes: AdmissionAttributes) -> bool:
        """False means that neither method is called for such writes.

        Depends on operation, resource and subresource alone: the answer is remembered.
        """

    async def admit(self, attributes: AdmissionAttributes) -> None:
        """Change `attributes.object` in place, or raise StatusError to refuse."""

    async def validate(self, attributes: AdmissionAttributes) -> None:
        """Raise StatusError to refuse."""


Half = TypeVar("Half", bound=Callable[..., Any])
_IDLE: set[object] = set()


def idle(half: Half) -> Half:
    """Decorates a half of a plug-in that does nothing: it is not called."""
    _IDLE.add(half)
    return half


class AdmissionChain:
    """The ordered table of plug-ins, run as one."""

    def __init__(self, plugins: Sequence[Plugin] = ()) -> None:
        self._plugins = tuple(plugins)
        # Those that look at a kind of write, by operation, group, resource and subresource.
        self._handling: dict[tuple[Operation, str, str, str], tuple[Judges, Judges]] = {}

    @property
    def empty(self) -> bool:
        """True when there is nothing to ask, so callers need not build attributes."""
        return not self._plugins

    async def admit(self, attributes: AdmissionAttributes) -> None:
        """Run every mutating plug-in in order, and all once more when one asks for it; the first refusal ends it."""
        await self._admit(attributes)
        if attributes.reinvoke:
            attributes.is_reinvocation = True
            await self._admit(attributes)

    async def validate(self, attributes: AdmissionAttributes) -> None:
        """Run every validating plug-in in order; the first refusal ends it.

        Deletions are asked about once, when the object is known: both halves run then.
        """
        if attributes.operation is Operation.DELETE:
            await self._admit(attributes)
        await _settled(self._judges(attributes)[1], attributes, VALIDATE)

    async def _admit(self, attributes: AdmissionAttributes) -> None:
        await _settled(self._judges(attributes)[0], attributes, ADMIT)

    def _judges(self, attributes: AdmissionAttributes) -> tuple[Judges, Judges]:
        """The halves that have something to do with such a write: (`admit`, `validate`)."""
        resource = attributes.resource
        key = attributes.operation, resource.group, resource.resource, attributes.subresource
        found = self._handling.get(key)
        if found is None:
            plugins = [plugin for plugin in self._plugins if plugin.handles(attributes)]
            operation = attributes.operation.value
            admitting = [plugin for plugin in plugins if type(plugin).admit not in _IDLE]
            validating = [plugin for plugin in plugins if type(plugin).validate not in _IDLE]
            found = self._handling[key] = (
                Judges([(one.admit, one.name, plugin_time(one.name, operation, ADMIT)) for one in admitting]),
                Judges([(one.validate, one.name, plugin_time(one.name, operation, VALIDATE)) for one in validating]),
            )
        return found


Judge = Callable[[AdmissionAttributes], Awaitable[None]]


class Judges(tuple[tuple[Judge, str, HistogramValue], ...]):
    """Halves of plug-ins, each with its plug-in's name and where its time is counted."""


async def _settled(judges: Judges, attributes: AdmissionAttributes, kind: str) -> None:
    """Run halves of plug-ins, one again after whoever it needs to know something from has been asked."""
    started = began = perf_counter()
    name = ""
    try:
        for judge, name, taken in judges:  # noqa: B007 (read when one refuses)
            while True:
                try:
                    await judge(attributes)
                    break
                except Undecided as open_question:
                    question = open_question
                await question.ask()
            now = perf_counter()
            taken.observe(now - began)
            began = now
    except StatusError:
        now, operation = perf_counter(), attributes.operation.value
        plugin_time(name, operation, kind, rejected=True).observe(now - began)
        step_time(operation, kind, rejected=True).observe(now - started)
        raise
    _STEPS[attributes.operation, kind].observe(began - started)


_STEPS: Final = {(one, kind): step_time(one.value, kind) for one in Operation for kind in (ADMIT, VALIDATE)}
