"""Devices by name in an OCI specification."""

from __future__ import annotations

import copy
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tiphys.runtime.spec.cdi import CDIError, inject, named

SPEC: dict[str, Any] = {
    "process": {"env": ["PATH=/bin", "A=old"], "user": {"uid": 0, "gid": 0, "additionalGids": [5]}},
    "mounts": [{"destination": "/data", "source": "/old", "type": "bind", "options": ["rbind"]}],
    "linux": {"resources": {"devices": [{"allow": False}]}},
}


def write(directory: Path, name: str, *devices: dict[str, Any], **more: Any) -> None:
    directory.mkdir(exist_ok=True)
    document = {"cdiVersion": "0.6.0", "kind": "vendor.test/toy", "devices": list(devices), **more}
    (directory / name).write_text(json.dumps(document))


def injected(names: list[str], *directories: Path) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    inject(spec, names, directories)
    return spec


def test_edits_of_devices_and_of_their_kind(tmp_path: Path) -> None:
    null = os.stat("/dev/null")
    edits = {
        "env": ["A=new", "B=1"],
        "deviceNodes": [{"path": "/dev/toy", "hostPath": "/dev/null", "permissions": "r"}],
        "mounts": [{"hostPath": "/src", "containerPath": "/data", "options": ["ro"]}],
        "hooks": [{"hookName": "createContainer", "path": "/bin/hook", "args": ["hook"]}],
        "additionalGids": [5, 6, 0],
    }
    devices = ({"name": "one", "containerEdits": edits}, {"name": "two", "containerEdits": {"env": ["TWO=2"]}})
    write(tmp_path, "toy.json", *devices, containerEdits={"env": ["KIND=toy"]})
    spec = injected(["vendor.test/toy=one", "vendor.test/toy=two"], tmp_path)
    assert spec["process"]["env"] == ["PATH=/bin", "A=new", "B=1", "KIND=toy", "TWO=2"]
    (node,) = spec["linux"]["devices"]
    assert (node["path"], node["type"], node["major"], node["minor"]) == ("/dev/toy", "c", 1, 3)
    assert node["fileMode"] == stat.S_IMODE(null.st_mode)
    assert spec["linux"]["resources"]["devices"][1] == {
        "allow": True,
        "type": "c",
        "major": 1,
        "minor": 3,
        "access": "r",
    }
    assert spec["mounts"] == [{"destination": "/data", "source": "/src", "type": "bind", "options": ["ro", "rbind"]}]
    assert spec["hooks"] == {"createContainer": [{"path": "/bin/hook", "args": ["hook"]}]}
    assert spec["process"]["user"]["additionalGids"] == [5, 6]


def test_the_later_directory_counts_and_conflicts_are_errors(tmp_path: Path) -> None:
    first, second = tmp_path / "etc", tmp_path / "run"
    write(first, "a.json", {"name": "one", "containerEdits": {"env": ["FROM=etc"]}})
    write(second, "a.json", {"name": "one", "containerEdits": {"env": ["FROM=run"]}})
    assert "FROM=run" in injected(["vendor.test/toy=one"], first, second)["process"]["env"]
    write(second, "b.json", {"name": "one"})
    with pytest.raises(CDIError, match="conflicting definitions"):
        injected(["vendor.test/toy=one"], first, second)


def test_what_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    write(tmp_path, "toy.json", {"name": "one", "containerEdits": {"deviceNodes": [{"path": "/dev/absent"}]}})
    with pytest.raises(CDIError, match=r"unresolvable CDI devices vendor.test/toy=none"):
        injected(["vendor.test/toy=none"], tmp_path, tmp_path / "absent")
    with pytest.raises(CDIError, match=r"failed to inject CDI device vendor.test/toy=one"):
        injected(["vendor.test/toy=one"], tmp_path)
    assert injected([], tmp_path) == SPEC


def test_devices_are_named_by_field_and_annotation() -> None:
    annotations = {"cdi.k8s.io/x": "a/b=1,a/b=2", "other": "a/b=3"}
    assert named(["a/b=2"], annotations) == ["a/b=2", "a/b=1"]
