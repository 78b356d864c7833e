"""What one asking of a container gives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"  # the question itself could not be put: says nothing about the container


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict and, for people, why."""

    verdict: Verdict
    output: str = ""


def success(output: str = "") -> Outcome:
    return Outcome(Verdict.SUCCESS, output)


def failure(output: str) -> Outcome:
    return Outcome(Verdict.FAILURE, output)


def error(output: str) -> Outcome:
    return Outcome(Verdict.ERROR, output)
