"""What BIRD is told: of other nodes, reflectors and routers."""

from __future__ import annotations

import pytest

from tiphys.network.backends.model import Local, Peer
from tiphys.network.bgp.config import bird_config
from tiphys.network.bgp.settings import BgpSettings, Router

ME = Local(name="me", ip="192.0.2.1", cidr="10.244.0.0/24")
PEERS = [
    Peer(name="b", ip="192.0.2.2", cidr="10.244.1.0/24"),
    Peer(name="c.example", ip="192.0.2.3", cidr="10.244.2.0/24"),
]


def sessions(settings: BgpSettings, local: Local = ME) -> dict[str, str]:
    """Neighbour → the line of the session with it."""
    lines = bird_config(local, PEERS, settings).splitlines()
    return {line.split("neighbor ")[1].split()[0]: line for line in lines if line.startswith("protocol bgp")}


def test_in_a_mesh_everyone_speaks_to_everyone() -> None:
    found = sessions(BgpSettings())
    assert set(found) == {"192.0.2.2", "192.0.2.3"}
    assert all("as 64512" in line and "rr client" not in line for line in found.values())
    assert "protocol bgp node_c_example_" in found["192.0.2.3"]  # a name of letters, digits and "_"


def test_with_reflectors_the_others_speak_to_them_only() -> None:
    assert set(sessions(BgpSettings.parse("routeReflectors: [b]"))) == {"192.0.2.2"}
    mine = sessions(BgpSettings.parse("routeReflectors: [me, b]"))
    assert "rr client" in mine["192.0.2.3"] and "rr client" not in mine["192.0.2.2"]
    assert set(sessions(BgpSettings.parse("{routeReflectors: [b], nodeMesh: true}"))) == {"192.0.2.2", "192.0.2.3"}


def test_routers_are_told_everything_of_ours_and_believed_what_is_named() -> None:
    router = Router(address="192.0.2.9", as_number=65000, imports=("198.51.100.0/24", "2001:db8::/32"))
    others = Router(address="192.0.2.8", as_number=65000, nodes=("b",))
    six = Router(address="2001:db8::9", as_number=65000)
    text = bird_config(ME, [], BgpSettings(peers=(router, others, six)), ["192.0.2.200"])
    assert "neighbor 192.0.2.9 as 65000; ipv4 { import where net ~ [198.51.100.0/24+];" in text
    assert "192.0.2.8" not in text and "2001:db8" not in text
    assert "route 10.244.0.0/24 unreachable" in text and "route 192.0.2.200/32 unreachable" in text
    own = Local(name="me", ip="2001:db8::1", cidr="fd00:1::/64")
    assert "import none" in bird_config(own, [], BgpSettings(peers=(six,)), ["2001:db8::200"]).splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("asNumber: 0", "asNumber: not a number"),
        ("[1]", "not an object"),
        ("a: [", "bgp.yaml: while parsing"),
        ("mesh: true", "unknown field mesh"),
        ("peers: [{asNumber: 1}]", r"peers\[0\]: .* does not appear to be"),
        ("peers: [{address: 192.0.2.1}]", r"peers\[0\].asNumber"),
        ("peers: [{address: 192.0.2.1, asNumber: 1, imports: [x]}]", r"peers\[0\]"),
        ("routeReflectors: a", "routeReflectors: not a list"),
    ],
)
def test_what_cannot_be_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BgpSettings.parse(text)
