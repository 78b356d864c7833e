"""Runs a measurement in Debian's cloud kernel under qemu, for what this machine's kernel may not have: IPVS.

    python -m bench.emulated bench.lookup [--counts …]
    python -m bench.emulated bench.proxy --mode nftables,iptables,ipvs --services 1000

Emulated, so some twenty times slower than this machine: figures of one such run compare with each other alone.
Needs what tests/e2e/vm.py needs (`scripts/test` installs it).
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

# What the mode iptables says in its rules, and the program's own half of it.
XTABLES = ("addrtype", "comment", "conntrack", "mark", "nat", "MASQUERADE", "recent", "statistic", "tcpudp")
EXTENSIONS = tuple(str(path) for path in Path("/usr/lib").glob("*/xtables"))


def outside(words: list[str]) -> int:
    """Start the machine, show what the measurement said; its exit status."""
    from tests.e2e import vm

    machine = vm.Machine(
        programs=("ip", "nft", "nsenter", "conntrack", "iptables-save", "iptables-restore"),
        packages=("setproctitle",),
        modules=("veth", "nf_conntrack_netlink", "nf_tables"),
        loadable=(*vm.PROXY_MODULES, "nft_compat", "ipt_REJECT", *(f"xt_{each}" for each in XTABLES)),
        directories=EXTENSIONS,
        trees=("tests", "bench"),
    )
    if missing := machine.missing():
        raise SystemExit(f"not installed: {', '.join(missing)} (scripts/test installs it)")
    with tempfile.TemporaryDirectory() as directory:
        found = vm.run(
            machine, "bench.emulated", Path(directory), patience=1800.0, TIPHYS_BENCH_WORDS=shlex.join(words)
        )
    print(found["said"], end="")
    return int(found["status"])


def inside(words: list[str]) -> None:
    """In the machine: what was said, as one line of JSON behind RESULT."""
    done = subprocess.run(
        [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print("RESULT", json.dumps({"status": done.returncode, "said": done.stdout}), flush=True)


def main() -> int:
    if words := os.environ.get("TIPHYS_BENCH_WORDS"):
        inside(shlex.split(words))
        return 0
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    return outside(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
