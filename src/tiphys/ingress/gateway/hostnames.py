"""Host names of listeners and routes, and what two of them have in common."""

from __future__ import annotations

from collections.abc import Iterable


def covers(pattern: str, host: str) -> bool:
    """Whether a pattern ("" for any, "*.example.org" for one or more labels more) has a host or narrower pattern."""
    if not pattern or pattern == host:
        return True
    if not pattern.startswith("*."):
        return False
    suffix = pattern[1:]
    name = host.removeprefix("*")
    return name.endswith(suffix) and len(name) > len(suffix)


def common(listener: str, route: str) -> str | None:
    """The narrower of two patterns when one covers the other, else None."""
    if covers(listener, route) and route:
        return route
    if covers(route, listener):
        return listener
    return None


def common_of_all(listener: str, routes: Iterable[str]) -> dict[str, str]:
    """What a listener has in common with the host names of a route, and which of them each comes from.

    No host names stand for all.
    """
    found: dict[str, str] = {}
    for name in sorted((name.lower() for name in routes), key=breadth) or [""]:
        shared = common(listener.lower(), name)
        if shared is not None:
            found.setdefault(shared, name)
    return found


def breadth(pattern: str) -> tuple[int, int]:
    """A key that sorts patterns from narrow to wide: exact names, wildcards by their length, anything."""
    if not pattern:
        return (2, 0)
    return (1 if pattern.startswith("*.") else 0, -len(pattern))
