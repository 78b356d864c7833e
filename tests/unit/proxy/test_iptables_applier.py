"""How commands are run, with programs of ours in the place of iptables."""

from __future__ import annotations

from pathlib import Path

import pytest
import uvloop

from tiphys.base.nft import NftError
from tiphys.proxy.iptables.applier import IptablesApplier
from tiphys.proxy.iptables.chains import Site


def program(directory: Path, name: str, script: str) -> None:
    file = directory / f"iptables-{name}"  # of the legacy variant: the other's chains are read from the kernel
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_commands_may_end_before_they_have_read_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "\n".join(f":KUBE-SVC-{number} - [0:0]" for number in range(20_000))
    (tmp_path / "saved").write_text(f"*nat\n{lines}\nCOMMIT\n")
    program(tmp_path, "save", f"exec /bin/cat {tmp_path}/saved")
    program(tmp_path, "restore", "echo 'line 1 failed' >&2; exit 4")
    monkeypatch.setenv("PATH", str(tmp_path))
    applier = IptablesApplier(None, Site())  # type: ignore[arg-type]  # the commands alone are asked
    with pytest.raises(NftError, match="line 1 failed"):
        uvloop.run(applier.clean_up())
