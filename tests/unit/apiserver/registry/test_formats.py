"""String formats: what is valid, and the words for what is not."""

from __future__ import annotations

import pytest

from tiphys.machinery import formats


@pytest.mark.parametrize("value", ["a", "my-name", "123-abc", "a" * 63])
def test_a_label(value: str) -> None:
    assert formats.dns1123_label(value) == []


def test_a_label_that_is_too_long_and_wrong_says_both() -> None:
    messages = formats.dns1123_label("A" * 64)
    assert messages[0] == "must be no more than 63 characters"
    assert messages[1].startswith("a lowercase RFC 1123 label must consist of")


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ("a", True),
        ("a.b/c", True),
        ("A_b.c", True),
        ("/a", False),
        ("a/", False),
        ("a/b/c", False),
        ("-a", False),
        ("", False),
    ],
)
def test_a_qualified_name(value: str, valid: bool) -> None:
    assert (not formats.qualified_name(value)) is valid


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ("10.0.0.1", []),
        ("2001:db8::1", []),
        ("010.0.0.1", ["must not have leading 0s"]),
        ("::ffff:1.2.3.4", ["must not be an IPv4-mapped IPv6 address"]),
        ("1.2.3", [formats.MUST_BE_IP]),
    ],
)
def test_an_address(value: str, messages: list[str]) -> None:
    assert formats.ip_address(value) == messages


def test_a_canonical_address() -> None:
    assert formats.canonical_ip("2001:DB8::1") == ['must be in canonical form ("2001:db8::1")']


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ("10.0.0.0/8", []),
        ("10.0.0.1/8", ["must not have bits set beyond the prefix length"]),
        ("10.0.0.0", [formats.MUST_BE_CIDR]),
        ("10.0.0.0/33", [formats.MUST_BE_CIDR]),
    ],
)
def test_a_cidr(value: str, messages: list[str]) -> None:
    assert formats.cidr(value) == messages


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ("127.0.0.1", ["may not be in the loopback range (127.0.0.0/8, ::1/128)"]),
        ("169.254.1.1", ["may not be in the link-local range (169.254.0.0/16, fe80::/10)"]),
        ("224.0.0.1", ["may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"]),
        ("0.0.0.0", ["may not be unspecified (0.0.0.0 or ::)"]),
        ("10.0.0.1", []),
    ],
)
def test_addresses_endpoints_may_not_have(value: str, messages: list[str]) -> None:
    assert formats.non_special_ip(value) == messages


@pytest.mark.parametrize("value", ["http", "a-1", "80x"])
def test_a_port_name(value: str) -> None:
    assert formats.port_name(value) == []


@pytest.mark.parametrize("value", ["", "80", "-a", "a--b", "toolongportnamexx", "A"])
def test_no_port_name(value: str) -> None:
    assert formats.port_name(value)
