"""What a reset writes, as a table."""

from __future__ import annotations

import pytest

from tiphys.cmd.testserver.cluster import difference
from tiphys.store import Delete, Put

ROLE = b'{"metadata":{},"aggregationRule":{}}'


@pytest.mark.parametrize(
    ("base", "state", "expected"),
    [
        ({"a": b"1"}, {"a": b"1"}, []),
        ({"a": b"1"}, {"a": b"1", "b": b"2"}, [Delete("b")]),
        ({"a": b"1"}, {"a": b"2"}, [Put("a", b"1")]),
        ({"a": b"1"}, {}, [Put("a", b"1")]),
        ({"a": ROLE}, {"a": ROLE + b" "}, []),
        ({"a": ROLE}, {}, [Put("a", ROLE)]),
    ],
    ids=["same", "more", "changed", "gone", "aggregated role changed", "aggregated role gone"],
)
def test_difference(base: dict[str, bytes], state: dict[str, bytes], expected: list[Put | Delete]) -> None:
    assert difference(base, state) == expected
