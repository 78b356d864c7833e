"""The subset of JSONPath that printer columns, scales and selectable fields use.

`.spec.a`, `.spec['a.b']`, `.spec.l[0]`, `.spec.l[*].x`, `.status.conditions[?(@.type=="Ready")].status`
https://kubernetes.io/docs/reference/kubectl/jsonpath/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final

Step = Callable[[Any], Iterator[Any]]
_STEP: Final = re.compile(
    r"""\.\.(?P<deep>[A-Za-z_][\w-]*) | \.(?P<name>(?:\\.|[^.\[\]\\])+) | \[(?P<index>-?\d+)\]
      | \[(?P<from>-?\d*):(?P<to>-?\d*)\]
      | \[(?P<all>\*)\] | \['(?P<quoted>(?:\\.|[^'])*)'\] | \["(?P<double>(?:\\.|[^"])*)"\]
      | \[\?\(\s*@(?P<left>[^=!<>\s]*)\s*(?:(?P<op>==|!=|<=|>=|<|>)\s*(?P<right>[^)]*?))?\s*\)\]""",
    re.VERBOSE,
)


@lru_cache(maxsize=1024)
def parse(path: str) -> tuple[Step, ...]:
    """The steps of a path. Raises ValueError."""
    text = path.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    if text and text[0] not in ".[":
        text = "." + text
    steps, at = [], 0
    while at < len(text) and text != ".":
        match = _STEP.match(text, at)
        if match is None:
            raise ValueError(f"unrecognized character in action: {text[at:]}")
        steps.append(_step(match))
        at = match.end()
    return tuple(steps)


def _step(match: re.Match[str]) -> Step:
    if match["name"] == "*" or match["all"]:
        return _all
    name = match["name"] or match["quoted"] or match["double"]
    if name is not None:
        return _named(re.sub(r"\\(.)", r"\1", name))
    if match["deep"]:
        return _deep(match["deep"])
    if match["index"]:
        return _indexed(int(match["index"]))
    if match["from"] is not None:
        return _sliced(match["from"], match["to"])
    return _filtered(match["left"], match["op"], match["right"])


def _all(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
    elif isinstance(value, dict):
        yield from (value[key] for key in sorted(value))


def _named(name: str) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, dict) and name in value:
            yield value[name]

    return step


def _deep(name: str) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            if name in value:
                yield value[name]
            for one in value.values():
                yield from step(one)
        elif isinstance(value, list):
            for one in value:
                yield from step(one)

    return step


def _indexed(index: int) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, list) and -len(value) <= index < len(value):
            yield value[index]

    return step


def _sliced(start: str, end: str) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, list):
            yield from value[int(start) if start else None : int(end) if end else None]

    return step


def _filtered(left: str, operator: str | None, right: str | None) -> Step:
    inner = parse(left) if left else ()
    wanted = _literal(right or "")

    def holds(item: Any) -> bool:
        found = next(_walk(item, inner), None)
        if operator is None:
            return found is not None
        if operator in ("==", "!="):
            return (found == wanted) is (operator == "==")
        try:
            compared: dict[str, bool] = {
                "<": found < wanted,
                "<=": found <= wanted,
                ">": found > wanted,
                ">=": found >= wanted,
            }
            return compared[operator]
        except TypeError:
            return False

    def step(value: Any) -> Iterator[Any]:
        yield from (one for one in (value if isinstance(value, list) else ()) if holds(one))

    return step


def _literal(text: str) -> Any:
    text = text.strip()
    if text[:1] in "'\"" and text:
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def _walk(value: Any, steps: tuple[Step, ...]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    for found in steps[0](value):
        yield from _walk(found, steps[1:])


def find(value: Any, path: str) -> list[Any]:
    """Every value a path leads to."""
    return list(_walk(value, parse(path)))


def simple_steps(path: str) -> tuple[str, ...]:
    """The names of a path that is nothing but names: `.spec.replicas`. Raises ValueError for another."""
    names = tuple(path.lstrip(".").split("."))
    if not path.startswith(".") or any(not name or not re.fullmatch(r"[\w-]+", name) for name in names):
        raise ValueError(f"{path} is not a simple path")
    return names
