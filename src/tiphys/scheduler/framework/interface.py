"""The extension points. A plugin implements those it needs; the scheduler asks which with isinstance.

A scheduling cycle, for one pod at a time:

    PreEnqueue -> (queue, sorted by QueueSort) -> PreFilter -> Filter -> [PostFilter if no node is left]
      -> PreScore -> Score -> Reserve -> Permit

A binding cycle, of many pods concurrently:

    (wait for Permit) -> PreBind -> Bind -> PostBind          any failure: Unreserve, back to the queue

Filter and Score answer for all nodes at once: a mask or a vector over the rows in view of the node table.
An expected outcome is a value (a Verdict, a Refusal); exceptions are for what should not happen: the pod goes
to back-off and the error is logged. Source: Kubernetes documentation, "Scheduling Framework"; KEP-624.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from tiphys.machinery.meta import ObjectName
from tiphys.scheduler.framework.events import Requeue
from tiphys.scheduler.nodetable import Mask, NodeTable, Numbers
from tiphys.scheduler.podinfo import PodInfo

T = TypeVar("T")
MAX_SCORE: Final = 100.0


class Reason(NamedTuple):
    """Why nodes were rejected. `resolvable`: whether evicting pods could help, for all of them or each."""

    text: str
    rows: Mask
    resolvable: bool | Mask = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """A filter's answer: which rows pass, and why the others do not.

    `reasons` is one text for all, or worked out only when the pod turns out unschedulable: a function from the mask
    of rejected rows to the reasons, where a row may have several.
    """

    passed: Mask
    reasons: str | Callable[[Mask], Sequence[Reason]]
    resolvable: bool = True

    def explain(self, rejected: Mask) -> Sequence[Reason]:
        """The reasons of these rows."""
        if isinstance(self.reasons, str):
            return (Reason(self.reasons, rejected, self.resolvable),)
        return self.reasons(rejected)


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, for the pod as a whole: of PreEnqueue, PreFilter, Reserve, Permit or PreBind.

    `plugin` is filled in by the framework. `resolvable`: whether evicting pods could help. `about`, of PreEnqueue: the
    one object whose changes could lift it, besides the pod; None: any of which the plugin wants to know.
    """

    reason: str
    plugin: str = ""
    resolvable: bool = False
    about: ObjectName | None = None


@dataclass(frozen=True, slots=True)
class Narrowed:
    """PreFilter: only these nodes, by name, can pass."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Skip:
    """PreFilter or PreScore: this pod is of no concern to the plugin; its Filter or Score is not called."""


SKIP: Final = Skip()


@dataclass(frozen=True, slots=True)
class Wait:
    """Permit: hold the pod back until it is allowed, at most so many seconds."""

    seconds: float


class StateKey(Generic[T]):
    """Names one plugin's data in a CycleState, and its type."""

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(slots=True)
class CycleState:
    """What plugins remember from one extension point to the next, for one pod in one cycle.

    `sampled`: the time each plugin takes is measured in this cycle.
    """

    sampled: bool = False
    skip_filter: set[str] = field(default_factory=set)
    skip_score: set[str] = field(default_factory=set)
    _data: dict[int, Any] = field(default_factory=dict)

    def write(self, key: StateKey[T], value: T) -> None:
        self._data[id(key)] = value

    def read(self, key: StateKey[T]) -> T:
        """Raises KeyError when nothing was written: a plugin's bug."""
        value: T = self._data[id(key)]
        return value

    def get(self, key: StateKey[T]) -> T | None:
        return self._data.get(id(key))


class Plugin(Protocol):
    """What every plugin has. `requeue_on`: the events that may undo its rejection."""

    name: ClassVar[str]
    requeue_on: ClassVar[Requeue]


class QueuedPod(Protocol):
    """What a QueueSort plugin sees."""

    info: PodInfo
    timestamp: float  # when it entered the queue, by the monotonic clock


@runtime_checkable
class QueueSortPlugin(Protocol):
    """Exactly one orders the active queue."""

    def sort_key(self, pod: QueuedPod) -> Any:
        """Pods are taken by ascending key."""


@runtime_checkable
class PreEnqueuePlugin(Protocol):
    def pre_enqueue(self, pod: PodInfo) -> Refusal | None:
        """Keep a pod out of the queue (until an event), or None. Called often; must be quick."""


@runtime_checkable
class PreFilterPlugin(Protocol):
    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Refusal | Narrowed | Skip | None:
        """Prepare for Filter; sees all nodes also when Filter is then asked about one."""


@runtime_checkable
class FilterPlugin(Protocol):
    """One that judges each row by this row and the pod's `fit_key` alone may say so: `row_local = True`.

    Preemption then remembers what it found for equal pods, row by row.
    """

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        """One verdict for all rows in view; None: all pass."""


class Diagnosis(Protocol):
    """Why no node passed, for PostFilter."""

    @property
    def node_count(self) -> int: ...

    def resolvable(self) -> Mask:
        """Rows where evicting pods could help."""


class Filters(Protocol):
    """All PreFilter and Filter plugins of the profile, to ask "what if"."""

    def rejections(self, pod: PodInfo, nodes: NodeTable, row: int) -> Sequence[Reason]:
        """Why `pod` does not fit on `row` as the table is now; empty when it does."""

    def row_local(self, pod: PodInfo, nodes: NodeTable) -> Callable[[int], Sequence[Reason]] | None:
        """`rejections` by row, prepared once: where every filter that concerns the pod is `row_local`; else None."""


@dataclass(frozen=True, slots=True)
class PostFilterResult:
    """`nominated`: the node that will have room; "": none, and a nomination there was is void; None: as it was.

    `message` is added to the event; `act`, if given, makes the room, run after the cycle beside others: True when it is
    there already. `victims` are the uids of the pods that have to go first. `ask`, if given, has somebody else's word
    awaited, which is then the result.
    """

    nominated: str | None
    message: str = ""
    act: Callable[[], Awaitable[bool]] | None = None
    victims: frozenset[str] = frozenset()
    ask: Callable[[], Awaitable[PostFilterResult]] | None = None


@runtime_checkable
class PostFilterPlugin(Protocol):
    def post_filter(
        self, state: CycleState, pod: PodInfo, nodes: NodeTable, diagnosis: Diagnosis, filters: Filters
    ) -> PostFilterResult:
        """Try to make room; called when no node passed. The first plugin that nominates a node ends the phase."""


@runtime_checkable
class PreScorePlugin(Protocol):
    def pre_score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Skip | None: ...


@runtime_checkable
class ScorePlugin(Protocol):
    def score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Numbers | None:
        """Whole numbers from 0 to 100 for the feasible rows, others are ignored; None: the same for all.

        What upstream calls NormalizeScore is part of it.
        """


@runtime_checkable
class ReservePlugin(Protocol):
    def reserve(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | None: ...

    def unreserve(self, state: CycleState, pod: PodInfo, node: str) -> None:
        """Undo `reserve`; also called when it was not reached or failed. Must not fail."""


@runtime_checkable
class PermitPlugin(Protocol):
    def permit(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | Wait | None: ...


@runtime_checkable
class PreBindPlugin(Protocol):
    async def pre_bind(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | None:
        """What must be done before the pod is bound, volumes for instance."""


@runtime_checkable
class PreBindPreFlightPlugin(Protocol):
    """A PreBind plugin that knows beforehand; one that does not is taken to have something to do."""

    def pre_bind_pre_flight(self, state: CycleState, pod: PodInfo, node: str) -> bool:
        """Whether `pre_bind` will have something to do, so that the binding may take long."""


@runtime_checkable
class BindPlugin(Protocol):
    async def bind(self, state: CycleState, pod: PodInfo, node: str) -> bool:
        """Bind the pod and return True, or leave it to the next plugin. Raises StatusError."""


@runtime_checkable
class PostBindPlugin(Protocol):
    def post_bind(self, state: CycleState, pod: PodInfo, node: str) -> None: ...
