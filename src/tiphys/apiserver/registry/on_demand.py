"""Versions that have to be asked for: conversion by webhooks, called from steps that cannot wait.

Ownership of fields and the questions to admission webhooks are worked out by plain functions that sometimes want an
object in another version. Where only a webhook can make it, they raise ConversionNeeded; `with_conversions` has it made
and calls the function again, which then finds it. Such a function changes nothing before it is through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class ConversionNeeded(Exception):
    """An object is needed in a version it is not there in; `meet` gets it. `meet` raises StatusError when it cannot."""

    def __init__(self, meet: Callable[[], Awaitable[None]]) -> None:
        super().__init__("an object has to be converted first")
        self.meet = meet


async def with_conversions(work: Callable[[], T]) -> T:
    """What `work` returns, after the conversions it needs. StatusError (500) when a conversion fails."""
    while True:
        try:
            return work()
        except ConversionNeeded as need:
            await need.meet()
