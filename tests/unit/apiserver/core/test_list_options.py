from __future__ import annotations

import base64
import json

import pytest

from tiphys.apiserver.endpoints.continue_token import decode_continue, encode_continue
from tiphys.apiserver.endpoints.list_options import ListOptions, parse_revision
from tiphys.machinery.errors import StatusError

LIST_ERRORS = {
    "match without a version": (
        {"resourceVersionMatch": "Exact"},
        "resourceVersionMatch is forbidden unless resourceVersion is provided",
    ),
    "exactly anything": (
        {"resourceVersionMatch": "Exact", "resourceVersion": "0"},
        'resourceVersionMatch "exact" is forbidden for resourceVersion "0"',
    ),
    "unknown match": ({"resourceVersionMatch": "Sometimes", "resourceVersion": "1"}, 'Unsupported value: "Sometimes"'),
    "match with continue": (
        {"resourceVersionMatch": "Exact", "resourceVersion": "1", "continue": "x"},
        "resourceVersionMatch is forbidden when continue is provided",
    ),
    "initial events of a list": ({"sendInitialEvents": "true"}, "sendInitialEvents is forbidden for list"),
}
WATCH_ERRORS = {
    "initial events without match": (
        {"sendInitialEvents": "true"},
        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    ),
    "match without initial events": (
        {"resourceVersionMatch": "NotOlderThan"},
        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
    ),
    "continue": ({"continue": "x"}, "resourceVersionMatch is forbidden when continue is provided"),
}


def query(values: dict[str, str]) -> dict[str, list[str]]:
    return {name: [value] for name, value in values.items()}


@pytest.mark.parametrize("case", LIST_ERRORS.values(), ids=LIST_ERRORS.keys())
def test_a_list_refuses(case: tuple[dict[str, str], str]) -> None:
    with pytest.raises(StatusError) as caught:
        ListOptions.parse(query(case[0]), watch=False)
    assert caught.value.code == 422
    assert case[1] in caught.value.message


@pytest.mark.parametrize("case", WATCH_ERRORS.values(), ids=WATCH_ERRORS.keys())
def test_a_watch_refuses(case: tuple[dict[str, str], str]) -> None:
    with pytest.raises(StatusError) as caught:
        ListOptions.parse(query(case[0]), watch=True)
    assert caught.value.code == 422
    assert case[1] in caught.value.message


def test_numbers_are_checked() -> None:
    with pytest.raises(StatusError, match=r'strconv.ParseInt: parsing "x": invalid syntax'):
        ListOptions.parse(query({"limit": "x"}), watch=False)


@pytest.mark.parametrize("text", ["-1", "abc", "1.0", " 1", "١"])
def test_a_resource_version_is_a_plain_number(text: str) -> None:
    with pytest.raises(ValueError, match="resourceVersion: Invalid value"):
        parse_revision(text)


def token(**fields: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).rstrip(b"=").decode()


def test_continue_tokens_survive_the_way_to_the_client_and_back() -> None:
    assert decode_continue(encode_continue(42, "default/a-b")) == (42, "default/a-b")


@pytest.mark.parametrize("token", ["garbage", "!!", "", "e30", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MH0"])
def test_what_is_no_continue_token_is_a_bad_request(token: str) -> None:
    with pytest.raises(StatusError) as caught:
        decode_continue(token)
    assert caught.value.code == 400
    assert caught.value.message.startswith("invalid continue token: continue key is not valid: ")


TOKENS = {
    "too short": ("x", "illegal base64 data at input byte 0"),
    "padded": ("e30=", "illegal base64 data at input byte 3"),
    "other characters": ("ab!d", "illegal base64 data at input byte 2"),
    "no JSON": ("Zm9v", "invalid character 'o' in literal false (expecting 'a')"),
    "cut off": ("eyJ", "unexpected end of JSON input"),
    "no object": ("W10", "json: cannot unmarshal array into Go value of type storage.continueToken"),
    "null": ("bnVsbA", "server does not recognize this encoded version "),
    "text for a number": (
        token(v="meta.k8s.io/v1", rv="5", start="b"),
        "json: cannot unmarshal string into Go struct field continueToken.rv of type int64",
    ),
    "other version": (
        token(v="meta.k8s.io/v2", rv=5, start="b"),
        "server does not recognize this encoded version meta.k8s.io/v2",
    ),
    "no revision": (
        token(v="meta.k8s.io/v1", rv=0, start="b"),
        "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
    ),
    "no start": (token(v="meta.k8s.io/v1", rv=-1), "encoded start key empty (version meta.k8s.io/v1)"),
    "out of the directory": (token(v="meta.k8s.io/v1", rv=-1, start="../x\0"), "../x\0"),
}


@pytest.mark.parametrize("case", TOKENS.values(), ids=TOKENS.keys())
def test_a_client_is_told_what_is_wrong_with_its_continue_token(case: tuple[str, str]) -> None:
    with pytest.raises(StatusError) as caught:
        decode_continue(case[0])
    assert caught.value.message == f"invalid continue token: continue key is not valid: {case[1]}"


def test_a_boolean_is_true_unless_it_says_it_is_not() -> None:
    for text in ("", "1", "yes", "0x1"):
        assert ListOptions.parse(query({"allowWatchBookmarks": text}), watch=True).allow_bookmarks
    for text in ("0", "false", "FALSE"):
        assert not ListOptions.parse(query({"allowWatchBookmarks": text}), watch=True).allow_bookmarks


@pytest.mark.parametrize("name", ["limit", "timeoutSeconds"])
def test_a_number_cannot_be_empty(name: str) -> None:
    with pytest.raises(StatusError, match=r'strconv.ParseInt: parsing "": invalid syntax'):
        ListOptions.parse(query({name: ""}), watch=False)
