"""Feature gates: named switches of behaviour, set as `--feature-gates=Name=true,Other=false`.

https://kubernetes.io/docs/reference/command-line-tools-reference/feature-gates/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

# Only gates that switch something in Tiphys; the value is v1.36's default.
KNOWN_GATES: Final[Mapping[str, bool]] = MappingProxyType(
    {
        "AllAlpha": False,
        "AllBeta": False,
        "InPlacePodVerticalScaling": True,
        "MaxUnavailableStatefulSet": False,
        "SidecarContainers": True,
        "WatchList": True,
    }
)


@dataclass(frozen=True, slots=True)
class FeatureGates:
    """The gates of one component; those not set have their default."""

    changed: Mapping[str, bool] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> FeatureGates:
        """Read `A=true,B=false`; raises ValueError naming the part that is wrong."""
        changed: dict[str, bool] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, equals, value = part.partition("=")
            if not equals:
                raise ValueError(f"missing bool value for feature gate {name}")
            if name not in KNOWN_GATES:
                raise ValueError(f"unrecognized feature gate: {name}")
            if value.lower() not in ("true", "false"):
                raise ValueError(f"invalid value of {name}: {value}, err: must be true or false")
            changed[name] = value.lower() == "true"
        return cls(changed)

    def enabled(self, name: str) -> bool:
        """Whether the gate is on; raises KeyError for a gate that does not exist."""
        return self.changed[name] if name in self.changed else KNOWN_GATES[name]
