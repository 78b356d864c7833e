"""What an AuthenticationConfiguration may say: the problems kube-apiserver v1.36 finds in the same document."""

from typing import Any

import pytest
import yaml

from tiphys.apiserver.authn.configuration import authentication_of, load_configuration
from tiphys.apiserver.configfile import ConfigError

WRONG = """
jwt:
- issuer:
    url: http://x?y#z
    discoveryURL: https://u:p@x?1
    audiences: ["", "a", "a"]
    audienceMatchPolicy: Foo
  claimMappings:
    username: {}
    groups: {claim: g}
    uid: {claim: a, expression: b}
    extra:
    - {key: "Foo", valueExpression: "claims.foo"}
    - {key: "kubernetes.io/foo", valueExpression: ""}
  claimValidationRules:
  - {}
  - {claim: a, expression: b}
  - {expression: "1", message: x}
  - {claim: foo, message: x}
  userValidationRules:
  - {}
  - {expression: "user.username"}
- issuer: {url: "", audiences: []}
  claimMappings: {username: {expression: "claims.sub"}}
- issuer: {url: "https://x", audiences: [a, b]}
  claimMappings: {username: {expression: "claims.sub", prefix: "x"}}
anonymous: {enabled: false, conditions: [{path: /healthz}]}
"""
PROBLEMS = """
jwt[0].issuer.url: Invalid value: "http://x?y#z": URL scheme must be https
jwt[0].issuer.url: Invalid value: "http://x?y#z": URL must not contain a query
jwt[0].issuer.url: Invalid value: "http://x?y#z": URL must not contain a fragment
jwt[0].issuer.discoveryURL: Invalid value: "https://u:p@x?1": URL must not contain a username or password
jwt[0].issuer.discoveryURL: Invalid value: "https://u:p@x?1": URL must not contain a query
jwt[0].issuer.audiences[0]: Required value
jwt[0].issuer.audiences[2]: Duplicate value: "a"
jwt[0].issuer.audienceMatchPolicy: Invalid value: "Foo": audienceMatchPolicy must be MatchAny for multiple audiences
jwt[0].claimValidationRules[0]: Required value: claim or expression is required
jwt[0].claimValidationRules[1]: Invalid value: "a": claim and expression can't both be set
jwt[0].claimValidationRules[2].expression: Invalid value: "1": must evaluate to bool
jwt[0].claimValidationRules[3].message: Invalid value: "x": may not be specified when claim is set
jwt[0].claimMappings.username: Required value: claim or expression is required
jwt[0].claimMappings.groups.prefix: Required value: prefix is required when claim is set. It can be set to an empty \
string to disable prefixing
jwt[0].claimMappings.uid: Invalid value: "": claim and expression can't both be set
jwt[0].claimMappings.extra[0].key: Invalid value: "Foo": must be a domain-prefixed path (such as "acme.io/foo")
jwt[0].claimMappings.extra[0].key: Invalid value: "Foo": must be lowercase
jwt[0].claimMappings.extra[1].key: Invalid value: "kubernetes.io/foo": k8s.io, kubernetes.io and their subdomains are \
reserved for Kubernetes use
jwt[0].claimMappings.extra[1].valueExpression: Required value
jwt[0].userValidationRules[0].expression: Required value
jwt[0].userValidationRules[1].expression: Invalid value: "user.username": must evaluate to bool
jwt[1].issuer.url: Required value
jwt[1].issuer.audiences: Required value: at least one jwt[1].issuer.audiences is required
jwt[2].issuer.audienceMatchPolicy: Invalid value: "": audienceMatchPolicy must be MatchAny for multiple audiences
jwt[2].claimMappings.username.prefix: Invalid value: "x": may not be specified when expression is set
anonymous.conditions: Invalid value: [{"Path":"/healthz"}]: enabled should be set to true when conditions are defined
"""


def refusal(document: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        authentication_of(document)
    return str(refused.value)


def test_every_problem_is_told_in_order() -> None:
    wanted = ", ".join(PROBLEMS.strip().split("\n"))
    assert refusal(yaml.safe_load(WRONG)) == f"invalid authentication configuration: [{wanted}]"


def test_expressions_that_do_not_compile() -> None:
    rule = {"expression": "user.foo == 1"}
    issuer = {"url": "https://x", "audiences": ["a"]}
    mappings = {"username": {"claim": "sub", "prefix": ""}}
    jwt = [{"issuer": issuer, "claimMappings": mappings, "userValidationRules": [rule]}]
    assert refusal({"jwt": jwt}) == (
        "invalid authentication configuration: jwt[0].userValidationRules[0].expression: Invalid value: "
        "\"user.foo == 1\": compilation failed: ERROR: <input>:1:5: undefined field 'foo'\n | user.foo == 1\n | ....^"
    )


def test_emails_must_be_verified() -> None:
    issuer = {"url": "https://x", "audiences": ["a"]}
    jwt: dict[str, Any] = {"issuer": issuer, "claimMappings": {"username": {"expression": "claims.email"}}}
    assert "claims.email_verified must be used in claimMappings.username.expression" in refusal({"jwt": [jwt]})
    jwt["claimValidationRules"] = [{"expression": "claims.?email_verified.orValue(true) == true"}]
    assert authentication_of({"jwt": [jwt]}).issuers[0].url == "https://x"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kind: AuthenticationConfiguration\nfoo: 1", 'strict decoding error: unknown field "foo"'),
        ("kind: AuthenticationConfiguration\njwt: [{a: 1}]", 'strict decoding error: unknown field "jwt[0].a"'),
        ("kind: Other", 'no kind "Other" is registered for version "apiserver.config.k8s.io/v1" in scheme'),
    ],
)
def test_documents_of_another_kind(tmp_path: Any, text: str, problem: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"apiVersion: apiserver.config.k8s.io/v1\n{text}\n")
    with pytest.raises(ConfigError) as refused:
        load_configuration(file)
    start = f'failed to load authentication configuration from file "{file}": {problem}'
    assert str(refused.value).startswith(start)
