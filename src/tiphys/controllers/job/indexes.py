"""Sets of completion indexes, written as `1,3-5,7`. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tiphys.api.batch.v1 import Job
from tiphys.api.core.v1 import Pod

COMPLETION_INDEX: Final = "batch.kubernetes.io/job-completion-index"
FAILURE_COUNT: Final = "batch.kubernetes.io/job-index-failure-count"


def parse(text: str, below: int) -> set[int]:
    """The indexes of `text` smaller than `below`; parts that are no numbers are passed over."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            found.update(range(int(first), min(int(last or first), below - 1) + 1))
    return found


def format_indexes(indexes: Iterable[int]) -> str:
    """The shortest text: runs of three and more are written with a dash, pairs too, as the API does."""
    parts: list[str] = []
    run: list[int] = []
    for index in [*sorted(indexes), None]:
        if run and (index is None or index != run[-1] + 1):
            if len(run) == 1:
                parts.append(str(run[0]))
            elif len(run) == 2:
                parts += [str(run[0]), str(run[1])]
            else:
                parts.append(f"{run[0]}-{run[-1]}")
            run = []
        if index is not None:
            run.append(index)
    return ",".join(parts)


def is_indexed(job: Job) -> bool:
    """Whether each completion has a number."""
    return job.spec.completion_mode == "Indexed"


def index_of(pod: Pod) -> int | None:
    """The completion index of a pod; None when it has none."""
    text = pod.metadata.annotations.get(COMPLETION_INDEX, "")
    return int(text) if text.isdigit() else None


def failure_count(pod: Pod) -> int:
    """How many pods of this pod's index failed before it."""
    text = pod.metadata.annotations.get(FAILURE_COUNT, "")
    return int(text) if text.isdigit() else 0


def completed(job: Job) -> set[int]:
    """The indexes that are done."""
    return parse(job.status.completed_indexes, job.spec.completions or 0)


def failed(job: Job) -> set[int]:
    """The indexes that have failed for good."""
    return parse(job.status.failed_indexes or "", job.spec.completions or 0)
