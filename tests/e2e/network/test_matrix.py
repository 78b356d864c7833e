"""Who reaches whom, in whole: every source × every target × TCP and UDP, without policies and with them.

One cluster of three nodes a combination of back end, proxy mode and address families. By default one combination;
TIPHYS_MATRIX=all runs all of them, TIPHYS_MATRIX=host-gw/iptables/4 those named (separated by commas; 46 is dual-stack
with IPv4 first).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import product

import pytest

from tests.e2e.network.matrix import policies
from tests.e2e.network.matrix.reach import Reach
from tests.e2e.network.matrix.site import Site, site_of

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="nodes need root"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on this machine"),
]

NAME = os.environ.get("TIPHYS_E2E_NAME", "e2e") + "-mx"
PORT = str(int(os.environ.get("TIPHYS_E2E_PORT", "16600")) + 73)
WHICH = os.environ.get("TIPHYS_MATRIX", "vxlan/nftables/46")
ALL = ["/".join(words) for words in product(("vxlan", "host-gw", "bgp"), ("nftables", "iptables"), ("4", "6", "46"))]
POD_RANGES = {4: "10.244.0.0/16", 6: "fd00:10:244::/56"}
SERVICE_RANGES = {4: "10.96.0.0/16", 6: "fd00:10:96::/112"}
IS_WHOLE = WHICH == "all"


@pytest.fixture(scope="module", params=ALL if IS_WHOLE else WHICH.split(","))
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    backend, mode, versions = request.param.split("/")
    if backend == "bgp" and not shutil.which("bird"):
        pytest.skip("BIRD (Debian: bird2) is not installed")
    if not shutil.which("haproxy"):
        pytest.skip("HAProxy (Debian: haproxy) is not installed")
    families = tuple(int(each) for each in versions)
    pods, services = (",".join(ranges[each] for each in families) for ranges in (POD_RANGES, SERVICE_RANGES))
    flags = ("--network", backend, "--proxy-mode", mode, "--pod-cidr", pods, "--service-cidr", services, "--ingress")
    with site_of(NAME, PORT, families, *flags) as made:
        yield made


def test_every_source_reaches_every_target_as_documented(site: Site) -> None:
    assert Reach(site).check() >= 500


@pytest.mark.parametrize("seed", range(24 if IS_WHOLE else 4))
def test_policies_let_pass_what_they_say_and_nothing_else(site: Site, seed: int) -> None:
    policies.check(site, seed)
