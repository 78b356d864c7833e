"""What a listing of the policies' table says, in a form that can be compared with what was written. Pure.

Sets and maps are compared by their elements, chains by the number of their rules: enough to see
a table that was flushed, removed or added to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tiphys.base.nft import elements_of
from tiphys.network.policy import layout
from tiphys.network.policy.layout import EGRESS, INGRESS
from tiphys.network.policy.state import Content


class Summary(NamedTuple):
    """Map → entries, set → elements (with empty values), chain → number of rules."""

    elements: dict[str, dict[str, str]]
    chains: dict[str, int]


def summary_of(listing: Iterable[Mapping[str, Any]]) -> Summary:
    """Of the entries of libnftables-json(5)."""
    elements: dict[str, dict[str, str]] = {}
    chains: Counter[str] = Counter()
    for entry in listing:
        if (chain := entry.get("chain")) is not None:
            chains[chain["name"]] += 0
        elif (rule := entry.get("rule")) is not None:
            chains[rule["chain"]] += 1
        elif (found := elements_of(entry)) is not None:
            elements.update([found])
    return Summary(elements, dict(chains))


def expected_summary(content: Content, versions: Iterable[int]) -> Summary:
    """Of a table with this content."""
    elements = {name: dict(entries) for name, entries in content.maps.items()}
    elements.update({name: dict.fromkeys(found, "") for name, found in content.sets.items()})
    chains = {name: len(rules) for name, rules in content.chains.items()}
    base = layout.base(versions)
    for direction in (INGRESS, EGRESS):
        body = base.partition(f"chain {direction} {{\n")[2].partition("  }\n")[0]
        chains |= {direction: body.count("\n"), f"{direction}-forward": 2, f"{direction}-output": 2}
    return Summary(elements, chains)
