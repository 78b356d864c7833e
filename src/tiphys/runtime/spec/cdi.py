"""Devices by name: what files under /etc/cdi and /var/run/cdi say a container needs for them.

https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md. Of two files that define one device the one
in the later directory counts; two in the same directory are an error of that device, not of others.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

ANNOTATION: Final = "cdi.k8s.io/"  # how devices were named before CRI had a field for them


class CDIError(ValueError):
    """A device that cannot be had; the text names it."""


def named(fields: Iterable[str], annotations: Mapping[str, str]) -> list[str]:
    """The devices a container asks for, each once: by CRI's field, and by annotations."""
    asked = [name for key, value in annotations.items() if key.startswith(ANNOTATION) for name in value.split(",")]
    return list(dict.fromkeys([*fields, *filter(None, asked)]))


def inject(spec: dict[str, Any], names: Sequence[str], directories: Sequence[Path]) -> None:
    """Change an OCI specification so that it has the devices. Raises CDIError."""
    if not names:
        return
    found = _devices(directories)
    missing = [name for name in names if name not in found]
    if missing:
        raise CDIError(f"unresolvable CDI devices {', '.join(missing)}")
    kinds: set[int] = set()
    for name in names:
        document, device = found[name]
        if device is None:
            raise CDIError(f"conflicting definitions of CDI device {name}")
        try:
            _edit(spec, device.get("containerEdits") or {})
            # What concerns all devices of a kind goes in once.
            if id(document) not in kinds:
                kinds.add(id(document))
                _edit(spec, document.get("containerEdits") or {})
        except (OSError, KeyError, TypeError, AttributeError) as error:
            raise CDIError(f"failed to inject CDI device {name}: {error}") from error


Found = dict[str, tuple[dict[str, Any], dict[str, Any] | None]]


def _devices(directories: Sequence[Path]) -> Found:
    """Every device by its whole name: its file, and its own part of it; None when two files define it."""
    found: Found = {}
    for directory in directories:
        here: Found = {}
        for document in _documents(directory):
            for device in document.get("devices") or ():
                name = f"{document['kind']}={device.get('name', '')}"
                here[name] = (document, None if name in here else device)
        found.update(here)
    return found


def _documents(directory: Path) -> Iterator[dict[str, Any]]:
    """The readable files of a directory; one that is broken takes its own devices away, and nobody else's."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix in (".json", ".yaml"))
    except OSError:
        return
    for path in paths:
        try:
            text = path.read_text()
            document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(document, dict) and isinstance(document.get("kind"), str) and "cdiVersion" in document:
            yield document


def _edit(spec: dict[str, Any], edits: Mapping[str, Any]) -> None:
    """Apply `containerEdits`."""
    process, linux = spec["process"], spec["linux"]
    environment: dict[str, str] = {}
    for entry in (*process["env"], *(edits.get("env") or ())):
        name, _, value = entry.partition("=")
        environment[name] = value
    process["env"] = [f"{name}={value}" for name, value in environment.items()]
    for given in edits.get("deviceNodes") or ():
        node = _node(given)
        linux["devices"] = [*(each for each in linux.get("devices", ()) if each["path"] != node["path"]), node]
        rule: dict[str, Any] = {key: node[key] for key in ("type", "major", "minor") if key in node}
        rules = linux["resources"].setdefault("devices", [])
        rules.append({"allow": True, **rule, "access": given.get("permissions") or "rwm"})
    for mount in edits.get("mounts") or ():
        made = {
            "destination": mount["containerPath"],
            "source": mount["hostPath"],
            "type": mount.get("type") or "bind",
            "options": list(mount.get("options") or ("rbind", "nosuid", "nodev")),
        }
        if made["type"] == "bind" and not {"bind", "rbind"} & set(made["options"]):
            made["options"].append("rbind")
        spec["mounts"] = [*(each for each in spec["mounts"] if each["destination"] != made["destination"]), made]
    for hook in edits.get("hooks") or ():
        kept = {key: hook[key] for key in ("path", "args", "env", "timeout") if hook.get(key) is not None}
        spec.setdefault("hooks", {}).setdefault(hook["hookName"], []).append(kept)
    groups = process["user"].setdefault("additionalGids", [])
    groups += [gid for gid in edits.get("additionalGids") or () if gid and gid not in groups]


def _node(given: Mapping[str, Any]) -> dict[str, Any]:
    """A device node of the specification; what is not said is what the machine's own has. Raises OSError."""
    node: dict[str, Any] = {"path": given["path"]}
    node.update({key: given[key] for key in ("type", "major", "minor", "fileMode", "uid", "gid") if key in given})
    if "type" in node and (node["type"] == "p" or "major" in node):
        return node
    found = os.stat(given.get("hostPath") or given["path"])
    if not stat.S_ISCHR(found.st_mode) and not stat.S_ISBLK(found.st_mode):
        raise OSError(f"{given.get('hostPath') or given['path']} is not a device node")
    node.setdefault("type", "c" if stat.S_ISCHR(found.st_mode) else "b")
    node.update(major=os.major(found.st_rdev), minor=os.minor(found.st_rdev))
    node.setdefault("fileMode", stat.S_IMODE(found.st_mode))
    node.setdefault("uid", found.st_uid)
    node.setdefault("gid", found.st_gid)
    return node
