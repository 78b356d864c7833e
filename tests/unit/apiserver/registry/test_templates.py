"""Pods of one template are judged and encoded once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tiphys.apiserver.registry.templates import MAX_BYTES, MAX_KNOWN, Templates

VOLUME = "kube-api-access-abcde"


def spec(volume: str = VOLUME, **more: Any) -> dict[str, Any]:
    return {"volumes": [{"name": volume}], "containers": [{"volumeMounts": [{"name": volume}]}], **more}


def test_specs_that_differ_in_the_name_of_the_token_volume_are_one() -> None:
    templates = Templates()
    first = templates.find(spec())
    other = templates.find(spec("kube-api-access-zzzzz"))
    assert first is not None and other is not None
    assert first[0] is other[0]
    first[0].keep(orjson.dumps(spec()), first[1])
    assert other[0].bytes_with(other[1]) == orjson.dumps(spec("kube-api-access-zzzzz"))


@pytest.mark.parametrize(
    "different",
    [
        spec(nodeName="a"),
        spec("kube-api-access-abcdef"),
        spec("kube-api-access-ABCDE"),
        {**spec(), "containers": [{"volumeMounts": [{"name": "kube-api-access-zzzzz"}]}]},
    ],
    ids=["another field", "a longer name", "an invalid name", "a mount of another volume"],
)
def test_other_differences_count(different: dict[str, Any]) -> None:
    templates = Templates()
    first, other = templates.find(spec()), templates.find(different)
    assert first is not None
    assert other is None or other[0] is not first[0]


def test_a_name_that_stands_elsewhere_too_is_not_replaced() -> None:
    assert Templates().find(spec(hostname=VOLUME)) is None


def test_large_parts_are_not_remembered() -> None:
    assert Templates().find({"a": "x" * MAX_BYTES}) is None


def test_the_oldest_goes_first() -> None:
    templates = Templates()
    kept, lost = templates.find({"a": 0}), templates.find({"a": 1})
    for number in range(2, MAX_KNOWN + 1):
        templates.find({"a": number})
        assert templates.find({"a": 0}) == kept
    assert lost is not None
    again = templates.find({"a": 1})
    assert again is not None and again[0] is not lost[0]
