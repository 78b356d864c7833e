"""The nodes as columns of arrays, one row a node, so that a plugin answers for all of them at once.

    row   name    allocatable[cpu]  requested[cpu]  taint set        labels["zone"]
    0     n1      4000              1500            0  ()            1  "a"
    1     n2      8000              200             1  (dedicated)   2  "b"
    2     (free)  1                 0               0                0
    3     n3      4000              0               0                1  "a"

Values that repeat (label values, lists of taints) are numbered, so a test is made once a value and looked
up for all rows: `passes_by_id[ids]`. A change touches one row. Rows of removed nodes are used again; until
then `alive` is False for them. `focus(row)` narrows every array to one row, for questions about one node.

Floats hold exact integers: every amount is below 2**53, and division of them is a fraction of integers' cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from tiphys.api.core.v1 import Node
from tiphys.machinery.meta import ObjectName
from tiphys.scheduler.podindex import NamespaceLabels, PodIndex
from tiphys.scheduler.podinfo import CPU, MEMORY, PODS, HostPort, PodInfo, amounts

K = TypeVar("K")
T = TypeVar("T", bound=np.generic)
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Ids = npt.NDArray[np.intp]
TaintKey = tuple[str, str, str]  # key, value, effect

FIRST_ROWS: Final = 16
MAX_REMEMBERED: Final = 4096  # masks of one state of the nodes
MAX_FOLLOWED: Final = 256  # arrays kept up to date row by row
MAX_CHANGES: Final = 4096  # changed rows remembered for them
EPHEMERAL_STORAGE: Final = "ephemeral-storage"


class LabelColumn:
    """One label of every node, by number; 0 is "the node does not have it"."""

    def __init__(self, size: int) -> None:
        self.ids: Ids = np.zeros(size, dtype=np.intp)
        self.values: dict[str, int] = {}

    @property
    def width(self) -> int:
        """Numbers in use, 0 among them: the length of a table looked up by id."""
        return len(self.values) + 1

    def set(self, row: int, value: str | None) -> None:
        self.ids[row] = 0 if value is None else self.values.setdefault(value, len(self.values) + 1)


class NodeRow:
    """What of one node is not an array."""

    __slots__ = ("node", "pods", "ports")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.pods: dict[str, PodInfo] = {}  # by uid
        self.ports: dict[HostPort, int] = {}


class Followed:
    """An array that is brought up to date where rows have changed; `seen` counts changes it knows."""

    __slots__ = ("array", "seen")

    def __init__(self, array: npt.NDArray[Any], seen: int) -> None:
        self.array = array
        self.seen = seen


class NodeTable:
    """All nodes and what is placed on them. Owned by the cache; plugins only read it."""

    def __init__(self, namespace_labels: NamespaceLabels = lambda _: {}) -> None:
        self._size = FIRST_ROWS
        self._end = 0  # rows used so far
        self._window: slice | Ids = slice(0, 0)
        self._focused = False
        self.row_of: dict[str, int] = {}
        self.rows: list[NodeRow | None] = []
        self._free_rows: list[int] = []
        self.row_versions = np.zeros(self._size, dtype=np.int64)  # each grows with every change of its row
        self.resources: dict[str, int] = {CPU: 0, MEMORY: 1, EPHEMERAL_STORAGE: 2, PODS: 3}
        self._allocatable: Numbers = np.ones((8, self._size))  # ones in free rows: nothing divides by zero
        self._requested: Numbers = np.zeros((8, self._size))
        self._nonzero: Numbers = np.zeros((2, self._size))
        self._alive: Mask = np.zeros(self._size, dtype=np.bool_)
        self._unschedulable: Mask = np.zeros(self._size, dtype=np.bool_)
        self._taint_set: Ids = np.zeros(self._size, dtype=np.intp)
        self.taint_sets: dict[tuple[TaintKey, ...], int] = {(): 0}
        self._columns: dict[str, LabelColumn] = {}
        self._remembered: dict[object, Mask] = {}
        self._followed: dict[object, Followed] = {}
        self._changes: list[int] = []  # rows, in the order they changed
        self._changes_before = 0  # changes no longer in the list
        self._image_rows: dict[str, dict[int, int]] = {}  # image name -> row -> bytes
        self._image_sizes: dict[str, Numbers] = {}  # made when asked for
        self._everywhere: dict[int, bool] = {}
        self.port_rows: dict[tuple[str, int], dict[int, int]] = {}  # (protocol, port) -> row -> uses
        self.claim_rows: dict[ObjectName, dict[int, int]] = {}  # claim -> row -> pods that use it
        self.pods = PodIndex(self._size, namespace_labels)
        # Grows with every change of what nodes are (not of what runs on them).
        self.version = 0
        self._bind(slice(0, 0))

    # The arrays, as plugins read them

    allocatable: Numbers  # [resource, row]
    requested: Numbers  # [resource, row]: what placed pods ask for; of PODS: their number
    nonzero: Numbers  # [0: cpu, 1: memory; row]: as requested, small amounts where a container asks for nothing
    alive: Mask
    unschedulable: Mask
    taint_set: Ids  # index into `taint_sets`

    def _bind(self, window: slice | Ids) -> None:
        self._window = window
        self.allocatable = self._allocatable[:, window]
        self.requested = self._requested[:, window]
        self.nonzero = self._nonzero[:, window]
        self.alive = self._alive[window]
        self.unschedulable = self._unschedulable[window]
        self.taint_set = self._taint_set[window]

    def __len__(self) -> int:
        """Nodes there are."""
        return len(self.row_of)

    @property
    def width(self) -> int:
        """The length of every array now: rows in use and free ones between them; 1 in focus."""
        return len(self.alive)

    @property
    def all_rows(self) -> slice:
        return slice(0, self._end)

    @contextmanager
    def focus(self, rows: int | Ids) -> Iterator[None]:
        """Narrow every array to one row, or to some."""
        before, was_focused, self._focused = self._window, self._focused, True
        self._bind(slice(rows, rows + 1) if isinstance(rows, int) else rows)
        try:
            yield
        finally:
            self._focused = was_focused
            self._bind(before)

    def name_of(self, row: int) -> str:
        info = self.rows[row]
        assert info is not None
        return info.node.metadata.name

    def node_in_view(self, index: int) -> Node:
        """The node at a place of the arrays as they are now."""
        row = self._window.start + index if isinstance(self._window, slice) else int(self._window[index])
        info = self.rows[row]
        assert info is not None
        return info.node

    def column(self, label: str) -> LabelColumn:
        """A label of all nodes; `label_ids` is the part in view."""
        column = self._columns.get(label)
        if column is None:
            column = self._columns[label] = LabelColumn(self._size)
            for row, info in enumerate(self.rows):
                if info is not None:
                    column.set(row, info.node.metadata.labels.get(label))
        return column

    def label_ids(self, label: str) -> Ids:
        return self.column(label).ids[self._window]

    def all_label_ids(self, label: str) -> Ids:
        return self.column(label).ids[: self._end]

    def mask_of(self, rows: Mapping[int, object] | set[int]) -> Mask:
        """A mask over the rows in view that is True for `rows`."""
        mask = np.zeros(self._end, dtype=np.bool_)
        for row in rows:
            mask[row] = True
        return mask[self._window]

    def remember(self, key: object, compute: Callable[[], Mask]) -> Mask:
        """`compute()`, kept until a node changes. The result must follow from `key` and the nodes alone."""
        mask = self._remembered.get(key)
        if mask is not None:
            return mask[self._window]
        mask = compute()
        if not self._focused:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = mask
        return mask

    def follow(self, key: object, compute: Callable[[], npt.NDArray[T]]) -> npt.NDArray[T]:
        """`compute()`, done again only for rows that changed: equal pods decided one after another cost one row each.

        Each row of the result must follow from `key` and that row alone. The array is shared, and good until the
        table changes: the caller neither changes nor keeps it.
        """
        if self._focused:
            return compute()
        known = self._followed.get(key)
        now = self._changes_before + len(self._changes)
        if known is None or known.seen < self._changes_before:
            if len(self._followed) >= MAX_FOLLOWED:
                del self._followed[next(iter(self._followed))]
            known = self._followed[key] = Followed(compute(), now)
        elif known.seen < now:
            changed = self._changes[known.seen - self._changes_before :]
            rows = changed[0] if len(changed) == 1 else np.array(list(set(changed)), dtype=np.intp)
            with self.focus(rows):
                known.array[self._window] = compute()
            known.seen = now
        return known.array

    def everywhere(self, number: int) -> bool:
        """Whether every node has some of a resource."""
        known = self._everywhere.get(number)
        if known is None:
            end = self._end
            known = self._everywhere[number] = bool((self._allocatable[number, :end] > 0)[self._alive[:end]].all())
        return known

    def image_sizes(self, image: str) -> Numbers:
        """Bytes of an image on the rows in view, 0 where it is not."""
        sizes = self._image_sizes.get(image)
        if sizes is None:
            sizes = self._image_sizes[image] = np.zeros(self._size)
            for row, size in self.image_rows(image).items():
                sizes[row] = size
        return sizes[self._window]

    def image_rows(self, image: str) -> Mapping[int, int]:
        """Row → size in bytes, of the nodes that have the image."""
        return self._image_rows.get(image, {})

    # Changes

    def set_node(self, node: Node) -> int:
        """Add a node or replace what is known of it; its row."""
        row = self.row_of.get(node.metadata.name)
        if row is None:
            row = self._take_row()
            self.row_of[node.metadata.name] = row
            self.rows[row] = NodeRow(node)
            self._alive[row] = True
            old: Node | None = None
        else:
            info = self.rows[row]
            assert info is not None
            old, info.node = info.node, node
        if old is None or old.status.allocatable != node.status.allocatable:
            self._set_allocatable(row, node)
            self._row_changed(row)
        if old is None or _differs(old, node):
            self._unschedulable[row] = bool(node.spec.unschedulable)
            taints = tuple((taint.key, taint.value, taint.effect) for taint in node.spec.taints)
            self._taint_set[row] = self.taint_sets.setdefault(taints, len(self.taint_sets))
            for label, column in self._columns.items():
                column.set(row, node.metadata.labels.get(label))
            self.touch(row)
            self._changed()
        if old is None or old.status.images != node.status.images:
            self._set_images(row, old, node)
        return row

    def remove_node(self, name: str) -> list[PodInfo]:
        """Forget a node; the pods that were placed on it."""
        row = self.row_of[name]
        info = self.rows[row]
        assert info is not None
        pods = list(info.pods.values())
        for pod in pods:
            self.remove_pod(pod, row)
        del self.row_of[name]
        self._set_images(row, info.node, None)
        self.rows[row] = None
        self._alive[row] = False
        self._unschedulable[row] = False
        self._allocatable[:, row] = 1
        self._everywhere.clear()
        self._taint_set[row] = 0
        for column in self._columns.values():
            column.set(row, None)
        self._free_rows.append(row)
        self._row_changed(row)
        self._changed()
        return pods

    def add_pod(self, pod: PodInfo, row: int) -> None:
        """Place a pod."""
        info = self.rows[row]
        assert info is not None
        info.pods[pod.uid] = pod
        self._account(pod, row, 1.0)
        self.pods.add(pod, row)
        for port in pod.ports:
            info.ports[port] = info.ports.get(port, 0) + 1
            uses = self.port_rows.setdefault((port.protocol, port.port), {})
            uses[row] = uses.get(row, 0) + 1
        for claim in pod.claims:
            uses = self.claim_rows.setdefault(claim, {})
            uses[row] = uses.get(row, 0) + 1

    def remove_pod(self, pod: PodInfo, row: int) -> None:
        """Take a pod away; `pod` is the very one that was placed."""
        info = self.rows[row]
        assert info is not None
        del info.pods[pod.uid]
        self._account(pod, row, -1.0)
        self.pods.remove(pod, row)
        for port in pod.ports:
            _decrease(info.ports, port)
            uses = self.port_rows[port.protocol, port.port]
            _decrease(uses, row)
            if not uses:
                del self.port_rows[port.protocol, port.port]
        for claim in pod.claims:
            uses = self.claim_rows[claim]
            _decrease(uses, row)
            if not uses:
                del self.claim_rows[claim]

    def resource_id(self, name: str) -> int:
        """The index of a resource in `allocatable` and `requested`."""
        number = self.resources.get(name)
        if number is None:
            number = self.resources[name] = len(self.resources)
            if number == len(self._allocatable):
                more = np.zeros((number, self._size))
                self._allocatable = np.concatenate((self._allocatable, more + ~self._alive))
                self._requested = np.concatenate((self._requested, more))
                self._bind(self._window)
        return number

    def _account(self, pod: PodInfo, row: int, sign: float) -> None:
        requested = self._requested
        for name, amount in pod.requests.items():
            number = self.resources.get(name)
            if number is None:
                number = self.resource_id(name)
                requested = self._requested
            requested[number, row] += sign * amount
        self._row_changed(row)
        requested[3, row] += sign
        self._nonzero[0, row] += sign * pod.nonzero[0]
        self._nonzero[1, row] += sign * pod.nonzero[1]

    def _set_allocatable(self, row: int, node: Node) -> None:
        amounts_by_name = amounts(node.status.allocatable)
        numbers = {self.resource_id(name): amount for name, amount in amounts_by_name.items()}
        self._everywhere.clear()
        self._allocatable[:, row] = 0
        for number, amount in numbers.items():
            self._allocatable[number, row] = amount

    def _set_images(self, row: int, old: Node | None, new: Node | None) -> None:
        for image in old.status.images if old else ():
            for name in image.names:
                rows = self._image_rows.get(name)
                self._image_sizes.pop(name, None)
                if rows is not None and rows.pop(row, None) is not None and not rows:
                    del self._image_rows[name]
        for image in new.status.images if new else ():
            for name in image.names:
                self._image_sizes.pop(name, None)
                self._image_rows.setdefault(name, {})[row] = image.size_bytes or 0

    def touch(self, row: int) -> None:
        """Something of a row changed that no other array shows."""
        self.row_versions[row] += 1

    def _row_changed(self, row: int) -> None:
        self.row_versions[row] += 1
        if len(self._changes) >= MAX_CHANGES:
            # Who has not looked for so long begins anew.
            self._changes_before += len(self._changes)
            self._changes.clear()
        self._changes.append(row)

    def _changed(self) -> None:
        self.version += 1
        self._remembered.clear()

    def _take_row(self) -> int:
        if self._free_rows:
            return self._free_rows.pop()
        if self._end == self._size:
            self._grow()
        self.rows.append(None)
        self._end += 1
        self._followed.clear()
        self._bind(slice(0, self._end))
        return self._end - 1

    def _grow(self) -> None:
        extra = self._size
        self._allocatable = np.pad(self._allocatable, ((0, 0), (0, extra)), constant_values=1)
        self._requested = np.pad(self._requested, ((0, 0), (0, extra)))
        self._nonzero = np.pad(self._nonzero, ((0, 0), (0, extra)))
        self._alive = np.pad(self._alive, (0, extra))
        self.row_versions = np.pad(self.row_versions, (0, extra))
        self._unschedulable = np.pad(self._unschedulable, (0, extra))
        self._taint_set = np.pad(self._taint_set, (0, extra))
        for column in self._columns.values():
            column.ids = np.pad(column.ids, (0, extra))
        self._image_sizes.clear()
        self._size += extra
        self.pods.resize(self._size)


def _differs(old: Node, new: Node) -> bool:
    """Whether what nodes are selected by changed; heartbeats change none of it."""
    return (
        old.metadata.labels != new.metadata.labels
        or old.spec.taints != new.spec.taints
        or old.spec.unschedulable != new.spec.unschedulable
    )


def _decrease(counts: dict[K, int], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
