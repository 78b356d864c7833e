"""Nodes' network namespaces lie where `ip netns` has its own, whoever came first."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In mounts of its own, as on a machine that has just started.
SCRIPT = """
import subprocess, sys
from pathlib import Path
from tiphys.cmd.cluster import place
from tiphys.runtime import linux

def ip(verb, name):
    subprocess.run(["ip", "netns", verb, name], check=True)

def mounted():
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}

for path in sorted((path for path in mounted() if path.startswith("/run/netns")), reverse=True):
    while linux.unmount(path):
        pass
linux.mount("tmpfs", "/run", "tmpfs")
if sys.argv[1] == "theirs":
    ip("add", "before")
place.share_namespaces_directory()
place.share_namespaces_directory()
assert [line.split()[4] for line in open("/proc/self/mountinfo")].count("/run/netns") == 1
pin = place.NETNS_DIRECTORY / "ours"
pin.touch()
linux.mount("/proc/self/ns/net", pin, "none", linux.MS_BIND)
ip("add", "after")
place._unpin(pin)
assert not pin.exists() and str(pin) not in mounted()
place.leave_namespaces_directory()
assert {"/run/netns", "/run/netns/after"} <= mounted(), "somebody's namespace was taken away"
for name in ("after", *(["before"] if sys.argv[1] == "theirs" else [])):
    ip("del", name)
place.leave_namespaces_directory()
assert "/run/netns" not in mounted()
"""


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_namespaces_of_others_do_not_cover_ours(first: str) -> None:
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", SCRIPT, first]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
