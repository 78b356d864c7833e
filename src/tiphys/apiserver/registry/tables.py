"""What the Table form shows of each resource, and the cells several of them share.

The columns (name, type, format, priority, description) stand in `data/columns.json`, one entry a resource; the cells
are made by each strategy's `row`, in the same order. Nothing in that file: name and creation time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

from tiphys.apiserver.registry.strategy import CREATED_AT_COLUMN, NAME_COLUMN, Column, Object
from tiphys.machinery.time import human_duration, parse_rfc3339

NONE: Final = "<none>"
UNSET: Final = "<unset>"
UNKNOWN: Final = "<unknown>"
_SHARED: Final = {"@name": NAME_COLUMN.description, "@created": CREATED_AT_COLUMN.description}


@lru_cache(maxsize=1)
def _all_columns() -> Mapping[str, Sequence[Sequence[Any]]]:
    text = files(__package__).joinpath("data/columns.json").read_text(encoding="utf-8")
    columns: Mapping[str, Sequence[Sequence[Any]]] = json.loads(text)
    return columns


def columns_of(group: str, plural: str) -> Sequence[Column]:
    """The columns of a resource; name and creation time for one that has none of its own."""
    found = _all_columns().get(f"{group}/{plural}")
    if found is None:
        return (NAME_COLUMN, CREATED_AT_COLUMN)
    return tuple(
        Column(name, type=kind, format=form, priority=priority, description=_SHARED.get(text, text))
        for name, kind, form, priority, text in found
    )


def since(text: str | None, now: datetime) -> str:
    """How long ago a time of the API is: "5m"; "<unknown>" when there is none."""
    return human_duration(now - parse_rfc3339(text)) if text else UNKNOWN


def containers_and_images(spec: Object) -> tuple[str, str]:
    """Names and images of the regular containers of a pod spec."""
    containers = spec.get("containers") or ()
    return ",".join(one.get("name", "") for one in containers), ",".join(one.get("image", "") for one in containers)


def labels_text(labels: Mapping[str, str] | None) -> str:
    """Labels as `a=b,c=d`; "<none>" without any."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) if labels else NONE


def selector_text(selector: Mapping[str, Any] | None) -> str:
    """A label selector in its string form: `a=b,c in (d,e),!f`; "<none>" for one that selects everything."""
    if selector is None:
        return NONE
    requirements = [(key, f"{key}={value}") for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        key, values = expression.get("key", ""), ",".join(sorted(expression.get("values") or ()))
        text = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }.get(expression.get("operator", ""), "<error>")
        requirements.append((key, text))
    return ",".join(text for _, text in sorted(requirements)) or NONE


def more(shown: Iterable[str], limit: int) -> str:
    """The first few of a list and how many are left: `a,b,c + 2 more...`; "<none>" for none."""
    items = list(shown)
    if not items:
        return NONE
    text = ",".join(items[:limit])
    return f"{text} + {len(items) - limit} more..." if len(items) > limit else text


def condition(obj: Object, kind: str) -> Object | None:
    """The condition of a type, or None."""
    for one in (obj.get("status") or {}).get("conditions") or ():
        if one.get("type") == kind:
            found: Object = one
            return found
    return None
