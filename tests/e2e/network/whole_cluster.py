"""A cluster as a user has one, as a program for `vm`: `tiphys up`, the workload of `scripts/up`, `tiphys down`.

TIPHYS_TEST_FLAGS are the flags of `up`, separated by commas. What came of it is one line of JSON behind RESULT.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

NAME = "v"
STATE = "/var/lib/tiphys"
NAMESPACES = Path("/run/netns")


def run(*words: str) -> tuple[int, str]:
    """(exit code, everything it said), also said on the console as it comes."""
    print(" ".join(words), flush=True)
    said = ""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said += line
    return process.returncode, said


def inside(*words: str) -> str:
    """What a program says in the first node's network."""
    first = min(path.name for path in NAMESPACES.iterdir())
    return run("ip", "netns", "exec", first, *words)[1]


def main() -> None:
    flags = ("--name", NAME, *os.environ["TIPHYS_TEST_FLAGS"].split(","))
    python = (sys.executable, "-m")
    run("mkdir", "-p", STATE)  # in memory: the root is an overlay, on which no other one can stand
    run("mount", "-t", "tmpfs", "state", STATE)
    found: dict[str, object] = {}
    found["up"], _ = run(*python, "tiphys.cmd.main", "up", *flags)
    found["demo"], said = run(*python, "tiphys.cmd.demo", *flags)
    found["answers"] = said.count("\n    hello from")
    logs = (path.read_text() for path in Path(STATE, NAME, "logs").glob("*-proxy.log"))
    found["meddled"] = [line for log in logs for line in log.splitlines() if "changed by somebody else" in line]
    found["servers"] = inside("cat", "/proc/net/ip_vs")
    found["links"] = inside("ip", "-details", "link")
    found["down"], _ = run(*python, "tiphys.cmd.main", "down", "--name", NAME, "--purge")
    found["left"] = [str(path) for path in NAMESPACES.iterdir()]
    print("RESULT", json.dumps(found))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
