"""Command lines in the style of Kubernetes' own: `--name=value` or `--name value`, and one clear line when wrong."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NoReturn

from tiphys.cmd.errors import UsageError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class FlagParser(argparse.ArgumentParser):
    """An argument parser that raises UsageError and never guesses what an abbreviated flag means."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"tiphys {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\nSee '{self.prog} --help' for usage.")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse all of `arguments`; raises UsageError, naming the first that is unknown."""
        found, unknown = self.parse_known_args(arguments)
        if unknown:
            first = unknown[0]
            what = f"unknown flag: {first.partition('=')[0]}" if first.startswith("-") else f"unknown argument: {first}"
            self.error(what)
        return found

    def boolean(self, name: str, default: bool | None, help_text: str) -> None:
        """A flag that may stand alone or as `--name=false`."""
        self.add_argument(f"--{name}", nargs="?", const=True, default=default, type=_boolean, help=help_text)

    def listing(self, name: str, default: Sequence[str], help_text: str) -> None:
        """A comma-separated list."""
        self.add_argument(f"--{name}", default=list(default), type=_words, help=help_text)


def _words(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "t", "1"):
        return True
    if text.lower() in ("false", "f", "0"):
        return False
    raise argparse.ArgumentTypeError(f'invalid boolean value "{text}"')


def duration(text: str) -> timedelta:
    """Go's notation: `1h15m30.5s`. For use as an argument's type."""
    if text in ("0", ""):
        return timedelta(0)
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text)
    parts = _DURATION.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise argparse.ArgumentTypeError(f'invalid duration "{text}"')
    return timedelta(seconds=sign * sum(float(number) * _UNITS[unit] for number, unit in parts))


def key_values(text: str) -> dict[str, Any]:
    """`a=b,c=d` as a dictionary."""
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f'"{part}" must be formatted as key=value')
        found[key] = value
    return found
