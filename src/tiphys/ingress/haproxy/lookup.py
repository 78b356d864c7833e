"""From the routes of a host to tables: which candidates a path has, found by hash and by longest prefix.

A site of thousands of hosts and paths costs a request three look-ups. Only routes that ask for more than host and path
(headers, methods, expressions) are tried one after another, and only among those whose path fits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tiphys.ingress.haproxy.words import path_on_the_wire
from tiphys.ingress.model import Host, PathType, Route, precedence


@dataclass(slots=True)
class Tables:
    """`exact` and `prefixes`: path → candidates, best first; the last is the first that needs nothing more."""

    exact: dict[str, tuple[Route, ...]] = field(default_factory=dict)
    prefixes: dict[str, tuple[Route, ...]] = field(default_factory=dict)  # paths end with "/"
    expressions: tuple[Route, ...] = ()


def tables_of(host: Host) -> Tables:
    """The tables of one host."""
    exact: dict[str, list[Route]] = defaultdict(list)
    prefixes: dict[str, list[Route]] = defaultdict(list)
    expressions = []
    for route in host.routes:
        match route.match.path_type:
            case PathType.EXACT:
                exact[path_on_the_wire(route.match.path)].append(route)
            case PathType.PREFIX:
                prefixes[path_on_the_wire(route.match.element_path)].append(route)
            case PathType.REGEX:
                expressions.append(route)
    found = Tables(expressions=tuple(sorted(expressions, key=precedence)))
    for path, own in exact.items():
        found.exact[path] = _ordered([*own, *_covering(path + "/", prefixes)])
    for path in prefixes:
        found.prefixes[path] = _ordered(_covering(path, prefixes))
    return found


def _covering(path: str, prefixes: dict[str, list[Route]]) -> Iterator[Route]:
    """The routes whose prefix the path has; it ends with "/"."""
    at = path.find("/")
    while at >= 0:
        yield from prefixes.get(path[: at + 1], ())
        at = path.find("/", at + 1)


def _ordered(routes: Iterable[Route]) -> tuple[Route, ...]:
    found = []
    for route in sorted(routes, key=precedence):
        found.append(route)
        if not route.match.has_conditions:
            break
    return tuple(found)
