"""Documents made to hurt: what they cost is an error."""

from __future__ import annotations

import pytest

from tiphys.machinery.codec import decode_json, decode_yaml

DEEP = 100_000


@pytest.mark.parametrize(
    "data",
    [b"[" * DEEP, b'{"a":' * DEEP, b"- " * DEEP, b"[" * DEEP + b"]" * DEEP, b"a: &a [*a]"],
    ids=["lists", "objects", "blocks", "closed", "itself"],
)
def test_deep_yaml_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="error converting YAML to JSON: yaml: "):
        decode_yaml(data)


def test_deep_json_is_refused() -> None:
    with pytest.raises(ValueError, match="exceeded max depth"):
        decode_json(b"[" * DEEP)


def test_wide_yaml_is_not_deep() -> None:
    assert decode_yaml(b"a: [" + b"[]," * 5000 + b"]").value == {"a": [[]] * 5000}
    assert decode_yaml(b"a: " + b"x" * 5000).value == {"a": "x" * 5000}


def test_what_is_no_character_is_replaced() -> None:
    assert decode_json(b'{"a":"\\ud800x","b":"\\ud83d\\ude00"}') == {"a": "\ufffdx", "b": "\U0001f600"}
