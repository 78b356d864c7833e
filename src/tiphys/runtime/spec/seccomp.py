"""Seccomp filters: the default profile, and profiles of the node's own as `Localhost` names them.

The default profile allows what ordinary programs need and answers EPERM to the rest; it is kept as data in
`seccomp_default.json`: names always allowed, names that come with a capability, names by architecture, and
rules on arguments. What it means is described at https://docs.docker.com/engine/security/seccomp/.
"""

from __future__ import annotations

import functools
import json
import platform
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
_EPERM = 1
_ENOSYS = 38


@functools.cache
def _table() -> dict[str, Any]:
    text = resources.files("tiphys.runtime.spec").joinpath("seccomp_default.json").read_text()
    table: dict[str, Any] = json.loads(text)
    return table


def default_profile(capabilities: Iterable[str]) -> dict[str, Any]:
    """The runtime's default filter for a container with these capabilities (`linux.seccomp`)."""
    table = _table()
    held = set(capabilities)
    names = set(table["allow"]) | set(table["architectures"].get(platform.machine(), []))
    for capability, more in table["capabilities"].items():
        if capability in held:
            names |= set(more)
    rules: list[dict[str, Any]] = [{"names": sorted(names), "action": "SCMP_ACT_ALLOW"}]
    for name, arguments in table["arguments"]:
        rules.append({"names": [name], "action": "SCMP_ACT_ALLOW", "args": arguments})
    if "CAP_SYS_ADMIN" not in held:
        # New namespaces only with CAP_SYS_ADMIN; clone3 hides its flags from the filter, and ENOSYS makes
        # libraries fall back to clone.
        rules.append(
            {
                "names": ["clone"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            }
        )
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "architectures": _ARCHITECTURES.get(platform.machine(), []),
        "syscalls": rules,
    }


def local_profile(directory: Path, reference: str, capabilities: Iterable[str]) -> dict[str, Any]:
    """A profile file of the node, in the format of Docker's profiles; raises OSError or ValueError.

    `reference` is absolute (as the kubelet sends it) or below `directory`. Rules that Docker's format makes
    depend on capabilities or architecture are resolved here, because the OCI specification has no such words.
    """
    path = Path(reference) if reference.startswith("/") else directory / reference
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f'cannot decode seccomp profile "{path}": {error}') from error
    held = set(capabilities)
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    kept = [rule for rule in document.get("syscalls") or [] if _applies(rule, held, arch)]
    profile = {
        key: document[key] for key in ("defaultAction", "defaultErrnoRet", "architectures", "flags") if key in document
    }
    if "architectures" not in profile:
        profile["architectures"] = _ARCHITECTURES.get(platform.machine(), [])
    profile["syscalls"] = [_plain(rule) for rule in kept]
    return profile


def _applies(rule: dict[str, Any], held: set[str], arch: str) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("caps") and not set(includes["caps"]) <= held:
        return False
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    return not (set(excludes.get("caps") or ()) & held or arch in (excludes.get("arches") or ()))


def _plain(rule: dict[str, Any]) -> dict[str, Any]:
    names = rule.get("names") or [rule["name"]]
    plain: dict[str, Any] = {"names": names, "action": rule["action"]}
    if rule.get("args"):
        plain["args"] = rule["args"]
    if rule.get("errnoRet") is not None:
        plain["errnoRet"] = rule["errnoRet"]
    return plain
