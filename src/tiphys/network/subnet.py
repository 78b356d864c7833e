"""The node's share of the pod network, in the file by which the network agent tells our CNI plugin.

`subnet.json`: {"cidrs": ["10.244.1.0/24"], "mtu": 1450, "cluster_cidr": "10.244.0.0/16"}. It is
replaced whole, so that a reader sees an old or a new one, never half of it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """`cidrs`: the node's pod CIDRs, one a family; `mtu` of pods' interfaces, in bytes."""

    cidrs: tuple[str, ...]
    mtu: int = 1450
    cluster_cidr: str = ""

    def write(self, path: Path) -> None:
        """Replace the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(self)) + "\n")
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> Subnet | None:
        """What the file says; None while there is none. Raises ValueError when it is damaged."""
        try:
            text = path.read_text()
        except FileNotFoundError:
            return None
        try:
            values = json.loads(text)
            return cls(cidrs=tuple(values["cidrs"]), mtu=int(values["mtu"]), cluster_cidr=values["cluster_cidr"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from None
