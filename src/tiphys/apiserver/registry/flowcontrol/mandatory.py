"""Flow control objects that are what they are: nobody may make them otherwise.

https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#mandatory-configuration-objects
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

_ANYTHING: Final[Json] = {
    "resourceRules": [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": True, "namespaces": ["*"]}
    ],
    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
}


def _groups(*names: str) -> list[Json]:
    return [{"kind": "Group", "group": {"name": name}} for name in names]


_SPECS: Final[Mapping[tuple[str, str], Json]] = {
    ("FlowSchemaSpec", "exempt"): {
        "priorityLevelConfiguration": {"name": "exempt"},
        "matchingPrecedence": 1,
        "rules": [{"subjects": _groups("system:masters"), **_ANYTHING}],
    },
    ("FlowSchemaSpec", "catch-all"): {
        "priorityLevelConfiguration": {"name": "catch-all"},
        "matchingPrecedence": 10000,
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": _groups("system:unauthenticated", "system:authenticated"), **_ANYTHING}],
    },
    ("PriorityLevelConfigurationSpec", "exempt"): {"type": "Exempt"},
    ("PriorityLevelConfigurationSpec", "catch-all"): {
        "type": "Limited",
        "limited": {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}, "lendablePercent": 0},
    },
}


def mandatory_errors(kind: str, name: str, spec: Json) -> list[FieldError]:
    """The error of a mandatory object called `name` that differs from what it must be. `kind`: the type of its spec."""
    wanted = _SPECS.get((kind, name))
    if wanted is None:
        return []
    shown = internal_form(kind, spec)
    found, except_for = dict(shown), ""
    if (kind, name) == ("PriorityLevelConfigurationSpec", "exempt"):
        found["Exempt"], except_for = None, " except the 'spec.exempt' field"
    if found == internal_form(kind, wanted):
        return []
    return [field.invalid(Path("spec"), shown, f"spec of '{name}'{except_for} must equal the fixed value")]
