"""RUN: a command in a stage, by the OCI runtime, on the node's network."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tiphys.runtime import linux
from tiphys.runtime.cgroups import Cgroups
from tiphys.runtime.images.dockerfile import DockerfileError, Instruction
from tiphys.runtime.images.stage import BuildError, Stage
from tiphys.runtime.spec.capabilities import DEFAULT, NAMES
from tiphys.runtime.spec.mounts import default_mounts


def run_step(
    stage: Stage, instruction: Instruction, *, work: Path, oci_runtime: str, say: Callable[[str], None]
) -> None:
    """Run the instruction's command in the stage. Raises BuildError, DockerfileError."""
    if instruction.flags:
        raise DockerfileError(f"line {instruction.line}: RUN --{next(iter(instruction.flags))} is not supported")
    argv = instruction.array() or [*stage.shell, instruction.text]
    bundle = Path(tempfile.mkdtemp(dir=work))
    cgroup = f"/tiphys-build-{bundle.name}"
    (bundle / "config.json").write_bytes(msgspec.json.encode(_spec(stage, argv, cgroup)))
    command = [oci_runtime, f"--root={bundle / 'oci'}", "run", "--bundle", str(bundle), bundle.name]
    try:
        status, last = _stream(command, say)
    except FileNotFoundError as error:
        raise BuildError(f"RUN needs {oci_runtime}, which is not installed on this machine") from error
    finally:
        Cgroups().remove(cgroup)
    if status != 0:
        raise BuildError(
            f'process "{" ".join(argv)}" did not complete successfully: exit code: {status}{last and f": {last}"}'
        )


def _spec(stage: Stage, argv: Sequence[str], cgroup: str) -> dict[str, Any]:
    """The OCI specification of the command."""
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **stage.values()}
    user = stage.user(stage.config.get("User") or "", with_groups=True)
    held = linux.effective_capabilities()
    from_names = [name for number, name in enumerate(NAMES) if number in held and name in DEFAULT]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
            "args": argv,
            "env": [f"{key}={value}" for key, value in environment.items()],
            "cwd": stage.config.get("WorkingDir") or "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), from_names),
        },
        "root": {"path": str(stage.merged)},
        "mounts": [
            *default_mounts(privileged=False),
            {
                "destination": "/etc/resolv.conf",
                "type": "bind",
                "source": "/etc/resolv.conf",
                "options": ["rbind", "ro"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            "cgroupsPath": cgroup,
        },
    }


def _stream(command: Sequence[str], say: Callable[[str], None]) -> tuple[int, str]:
    """Run a command to its end, saying what it writes as it comes: its exit status and its last line."""
    last = ""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    ) as running:
        for line in running.stdout or ():
            last = line.rstrip()
            say(last)
    return running.returncode, last
