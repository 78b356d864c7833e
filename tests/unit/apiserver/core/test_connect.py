from __future__ import annotations

import pytest

from tiphys.apiserver.endpoints.connect import node_address, split_name
from tiphys.machinery.errors import StatusError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("web", ("", "web", "")),
        ("web:80", ("", "web", "80")),
        ("https:web:443", ("https", "web", "443")),
        ("https:web:", ("https", "web", "")),
        (":web:http", ("", "web", "http")),
    ],
)
def test_proxied_names_carry_scheme_and_port(name: str, parts: tuple[str, str, str]) -> None:
    assert split_name(name) == parts


def test_other_schemes_are_refused() -> None:
    with pytest.raises(StatusError):
        split_name("ftp:web:21")


def test_kubelets_are_reached_at_the_internal_address() -> None:
    addresses = [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}]
    assert node_address(addresses) == "10.0.0.1"
    assert node_address(addresses[:1]) == "n"
    assert node_address([]) == ""
