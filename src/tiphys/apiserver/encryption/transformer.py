"""Transformer: between a value and what the store holds of it; and several of them told apart by prefixes.

    stored   k8s:enc:aesgcm:v1:key1:<nonce><sealed>
             │ provider         │    └─ what the transformer made
             └─ tells which     └─ and which of its keys

The first transformer writes; all read. What another than the first has written is stale: it is written again at the
next update, even at one that changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class TransformError(Exception):
    """A value cannot be read or sealed. The message is the one clients get, in upstream's words."""


class ServiceUnavailable(TransformError):
    """The key service does not answer; when it does again, the value may be read."""


class Transformer(Protocol):
    """Seals and opens values. `context` is the key the store has the value under: sealed in, where a cipher can."""

    def open(self, stored: bytes, context: bytes) -> tuple[bytes, bool]:
        """The value, and whether it is stale. Raises TransformError."""

    def seal(self, value: bytes, context: bytes) -> bytes:
        """What is to be stored. Raises TransformError."""


@dataclass(frozen=True, slots=True)
class Prefixed:
    """A transformer and what its values begin with in the store; an empty prefix fits every value."""

    prefix: bytes
    transformer: Transformer


class FirstWrites:
    """Several transformers: the first seals, whichever has the prefix opens."""

    def __init__(self, choices: Sequence[Prefixed], unknown: str) -> None:
        """`unknown` is the message for a value with no prefix of `choices`, of which there is at least one."""
        self.choices = tuple(choices)
        self._unknown = unknown

    def open(self, stored: bytes, context: bytes) -> tuple[bytes, bool]:
        problems: list[str] = []
        for index, choice in enumerate(self.choices):
            if not stored.startswith(choice.prefix):
                continue
            try:
                value, stale = choice.transformer.open(stored[len(choice.prefix) :], context)
            except TransformError as error:
                if choice.prefix:  # two providers may share a prefix
                    problems.append(str(error))
                continue
            return value, stale or index > 0
        problems = list(dict.fromkeys(problems))
        if not problems:
            raise TransformError(self._unknown)
        raise TransformError(problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]")

    def seal(self, value: bytes, context: bytes) -> bytes:
        first = self.choices[0]
        return first.prefix + first.transformer.seal(value, context)
