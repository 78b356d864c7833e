"""A machine without /etc/protocols (Debian's package netbase): what is read back is what was written all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PROGRAM = """
import json
from tiphys.base.nft import Nft
nft = Nft()
nft.run('''
table ip t {
  set plain { type inet_proto; elements = { tcp, sctp }; }
  set ports { type ipv4_addr . inet_proto . inet_service; elements = { 10.96.0.1 . tcp . 443, 10.96.0.1 . udp . 6 }; }
  map marks { type inet_proto . inet_service : mark; elements = { udp . 17 : 0x10 }; }
}
''')
print(json.dumps(nft.table("ip", "t").elements))
"""


@pytest.mark.parametrize("hidden", [True, False])
def test_protocols_have_their_names(hidden: bool) -> None:
    hide = "mount --bind /dev/null /etc/protocols && " if hidden else ""
    words = ("unshare", "--net", "--mount", "sh", "-c", f'{hide}exec "$0" -c "$1"', sys.executable, PROGRAM)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "plain": {"tcp": "", "sctp": ""},
        "ports": {"10.96.0.1 . tcp . 443": "", "10.96.0.1 . udp . 6": ""},
        "marks": {"udp . 17": "16"},
    }
