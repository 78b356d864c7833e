"""Documents of extension servers in ours: their paths and definitions in /openapi/v2.

Definitions of one name that are not the same (another release's ObjectMeta, say) are kept both: the extension's gets a
suffix, and so does every definition of ours by name that refers to one with a suffix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Answer
from tiphys.apiserver.openapi.definitions import references

Object = dict[str, Any]
DEFINITIONS: Final = "#/definitions/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignPart:
    """What another server says about a group and version of its own, in the words of OpenAPI 2.

    `place` is "apis/GROUP/VERSION"; `url` its own document in version 3, "" when it has none.
    """

    place: str
    paths: Mapping[str, Object] = field(default_factory=dict)
    definitions: Mapping[str, Object] = field(default_factory=dict)
    url: str = ""
    digest: str = ""


class Foreign(Protocol):
    """The documents of other servers."""

    def parts(self) -> Sequence[ForeignPart]:
        """What is known of them now."""

    async def document(self, request: Request, place: str) -> Answer | None:
        """The answer of the server of `place` for its document in version 3; None when nobody else serves it."""


def merge(paths: dict[str, Object], definitions: dict[str, Object], parts: Iterable[ForeignPart]) -> None:
    """Add the parts to the paths and definitions of a document, in their order; a path that is there already stays."""
    for part in parts:
        names = _renamed(part.definitions, definitions)

        def rename(name: str, names: Mapping[str, str] = names) -> str:
            return names.get(name, name)

        for name, definition in part.definitions.items():
            definitions.setdefault(rename(name), _with_references(definition, rename))
        for path, item in part.paths.items():
            paths.setdefault(path, _with_references(item, rename))


def _renamed(theirs: Mapping[str, Object], ours: Mapping[str, Object]) -> dict[str, str]:
    """New names of definitions that differ from ours of the same name, or refer to one that does."""
    common = [name for name in theirs if name in ours]
    differing = {name for name in common if theirs[name] != ours[name]}
    uses = {name: references(theirs[name]) for name in common}
    while more := {name for name in common if name not in differing and uses[name] & differing}:
        differing |= more
    return {name: _free(name, ours, theirs) for name in differing}


def _free(name: str, *taken: Mapping[str, Object]) -> str:
    number = 2
    while any(f"{name}_v{number}" in one for one in taken):
        number += 1
    return f"{name}_v{number}"


def _with_references(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {
            key: DEFINITIONS + rename(inner.rpartition("/")[2])
            if key == "$ref" and isinstance(inner, str)
            else _with_references(inner, rename)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_with_references(one, rename) for one in value]
    return value
