"""Policy rules: what they allow, what covers what, and how the rest is shown."""

import pytest

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.interface import Attributes
from tiphys.apiserver.authz.rules import PolicyRule, compacted, described, uncovered, url_matches

NOBODY = UserInfo("nobody")


def rule(verbs: str, groups: str = "", resources: str = "", names: str = "", urls: str = "") -> PolicyRule:
    def words(text: str) -> tuple[str, ...]:
        return tuple("" if word == "core" else word for word in text.split())

    return PolicyRule(words(verbs), words(groups), words(resources), words(names), words(urls))


def ask(verb: str, resource: str, name: str = "", group: str = "") -> Attributes:
    plural, _, sub = resource.partition("/")
    return Attributes(
        user=NOBODY, verb=verb, resource_request=True, api_group=group, resource=plural, subresource=sub, name=name
    )


@pytest.mark.parametrize(
    ("given", "asked", "allowed"),
    [
        (rule("get", "core", "pods"), ask("get", "pods"), True),
        (rule("get", "core", "pods"), ask("list", "pods"), False),
        (rule("get", "core", "pods"), ask("get", "pods/log"), False),
        (rule("get", "core", "pods/log"), ask("get", "pods/log"), True),
        (rule("get", "core", "*/log"), ask("get", "pods/log"), True),
        (rule("get", "core", "*/log"), ask("get", "log"), False),
        (rule("get", "core", "*"), ask("get", "pods/log"), True),
        (rule("*", "*", "*"), ask("anything", "things", group="example.com"), True),
        (rule("get", "apps", "pods"), ask("get", "pods"), False),
        (rule("get", "core", "pods", "a b"), ask("get", "pods", "b"), True),
        (rule("get", "core", "pods", "a b"), ask("get", "pods", "c"), False),
        (rule("list", "core", "pods", "a"), ask("list", "pods"), False),
        (rule("get", urls="/healthz"), ask("get", "pods"), False),
    ],
)
def test_allows(given: PolicyRule, asked: Attributes, allowed: bool) -> None:
    assert given.allows(asked) is allowed


@pytest.mark.parametrize(
    ("url", "path", "matches"),
    [
        ("/healthz", "/healthz", True),
        ("/healthz", "/healthz/etcd", False),
        ("/healthz/*", "/healthz/etcd", True),
        ("/healthz*", "/healthzzz", True),
        ("*", "/any", True),
        ("/api", "/apis", False),
    ],
)
def test_urls(url: str, path: str, matches: bool) -> None:
    assert url_matches(url, path) is matches


@pytest.mark.parametrize(
    ("wanted", "owned", "missing"),
    [
        ([rule("get list", "core", "pods")], [rule("get list watch", "core", "pods services")], []),
        ([rule("get list", "core", "pods")], [rule("get", "core", "pods")], ['Verbs:["list"]']),
        ([rule("get", "core apps", "pods")], [rule("get", "core", "pods")], ['APIGroups:["apps"]']),
        ([rule("get", "core", "pods")], [rule("get", "core", "pods", "a")], ['Resources:["pods"]']),
        ([rule("get", "core", "pods", "a")], [rule("get", "core", "pods")], []),
        ([rule("get", "core", "pods", "a b")], [rule("get", "core", "pods", "a")], ['ResourceNames:["b"]']),
        ([rule("get", "core", "pods/log")], [rule("get", "core", "*/log")], []),
        ([rule("*", "core", "pods")], [rule("get list", "core", "pods")], ['Verbs:["*"]']),
        ([rule("get", urls="/a /b/*")], [rule("get", urls="/a /b*")], []),
        ([rule("get", urls="/a")], [rule("get", "*", "*")], ['NonResourceURLs:["/a"]']),
        ([rule("get", "core", "pods")], [rule("get", "core", "pods"), rule("*", "*", "*")], []),
    ],
)
def test_what_is_not_covered(wanted: list[PolicyRule], owned: list[PolicyRule], missing: list[str]) -> None:
    found = [described(one) for one in uncovered(wanted, owned)]
    assert len(found) == len(missing)
    for text, part in zip(found, missing, strict=True):
        assert part in text


def test_what_is_missing_is_shown_together() -> None:
    pieces = uncovered([rule("get list", "core", "pods"), rule("get", urls="/x")], [])
    assert [described(one) for one in compacted(pieces)] == [
        '{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}',
        '{NonResourceURLs:["/x"], Verbs:["get"]}',
    ]
