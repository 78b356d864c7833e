"""Network configuration lists as the CNI specification defines them, read from a directory.

The first file in the order of names wins, as with every runtime; `.conflist`, and `.conf` or
`.json` with a single plugin. https://www.cni.dev/docs/spec/#section-1-network-configuration-format
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tiphys.network.cni.model import NetworkError

SUPPORTED_VERSIONS: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkList:
    """One network: its plugins' configurations in the order of ADD."""

    name: str
    cni_version: str
    plugins: tuple[dict[str, Any], ...]
    disable_check: bool = False
    disable_gc: bool = False

    def at_least(self, version: str) -> bool:
        """Whether the list is of this version of the specification or a later one."""
        return _number(self.cni_version) >= _number(version)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def find(directory: Path) -> Path | None:
    """The file that counts, if there is any."""
    if not directory.is_dir():
        return None
    names = sorted(path for path in directory.iterdir() if path.suffix in (".conflist", ".conf", ".json"))
    return names[0] if names else None


def load(path: Path) -> NetworkList:
    """Read one file. Raises NetworkError naming the file and what is wrong with it."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise NetworkError(f"error parsing CNI configuration {path}: {error}") from None
    if not isinstance(values, dict):
        raise NetworkError(f"error parsing CNI configuration {path}: not an object")
    if "plugins" not in values:
        values = {"name": values.get("name"), "cniVersion": values.get("cniVersion"), "plugins": [values]}
    version = values.get("cniVersion") or "0.2.0"
    if version not in SUPPORTED_VERSIONS:
        raise NetworkError(f"CNI configuration {path}: incompatible CNI versions; config is {version!r}")
    if not values.get("name"):
        raise NetworkError(f"CNI configuration {path}: no 'name'")
    plugins = values["plugins"]
    if not isinstance(plugins, list) or not plugins:
        raise NetworkError(f"CNI configuration {path}: no plugins")
    for plugin in plugins:
        if not isinstance(plugin, dict) or not plugin.get("type"):
            raise NetworkError(f"CNI configuration {path}: a plugin has no 'type'")
    return NetworkList(
        name=values["name"],
        cni_version=version,
        plugins=tuple(plugins),
        disable_check=_flag(values.get("disableCheck")),
        disable_gc=_flag(values.get("disableGC")),
    )


def _flag(value: object) -> bool:
    # The specification lets both be a string too.
    return value is True or (isinstance(value, str) and value.lower() == "true")
