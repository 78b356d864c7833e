"""Writes `data/resources.json`: the resources and the order of groups, for `tiphys.api.table`."""

from __future__ import annotations

import csv
import json
from typing import Any

from .model import DATA


def split(text: str, separator: str = ",") -> list[str]:
    return text.split(separator) if text else []


def subresources(text: str) -> dict[str, Any]:
    """`status:Pod:get|patch` → {"status": ["Pod", ["get", "patch"]]}; another group's kind as `group/version.Kind`."""
    out: dict[str, Any] = {}
    for entry in split(text, ";"):
        name, kind, verbs = entry.rsplit(":", 2)
        out[name] = [kind, verbs.split("|")]
    return out


def rows(name: str, alpha: bool) -> list[dict[str, Any]]:
    with (DATA / name).open() as lines:
        return [
            {
                "group": row["group"],
                "version": row["version"],
                "kind": row["kind"],
                "plural": row["plural"],
                "singular": row["singular"],
                "namespaced": row["namespaced"] == "true",
                "verbs": split(row["verbs"]),
                "subresources": subresources(row["subresources"]),
                "short_names": split(row["short_names"]),
                "categories": split(row["categories"]),
                "preferred": row["preferred"] == "true",
                "alpha": alpha,
            }
            for row in csv.DictReader(lines, delimiter="\t")
        ]


def render_table() -> str:
    """One line a resource and a group."""
    resources = rows("resources.tsv", False) + rows("resources-alpha.tsv", True)
    with (DATA / "groups.tsv").open() as lines:
        groups = [
            ["" if row["group"] == "(core)" else row["group"], row["preferred"], split(row["versions"])]
            for row in csv.DictReader(lines, delimiter="\t")
        ]

    def block(items: list[Any]) -> str:
        return ",\n".join(json.dumps(item, separators=(",", ":")) for item in items)

    return f'{{"resources":[\n{block(resources)}\n],"groups":[\n{block(groups)}\n]}}\n'
