"""What an AuthorizationConfiguration may say: the problems kube-apiserver v1.36 finds in the same document."""

import pytest
import yaml

from tiphys.apiserver.authz.configuration import authorizers_of
from tiphys.apiserver.configfile import ConfigError

WRONG = """
authorizers:
- type: Webhook
  name: "BAD_name"
- type: Webhook
  name: w
  webhook:
    authorizedTTL: 0s
    unauthorizedTTL: -1s
    timeout: 40s
    subjectAccessReviewVersion: v2
    matchConditionSubjectAccessReviewVersion: v2
    failurePolicy: Foo
    connectionInfo: {type: Foo}
    matchConditions: [{expression: ""},{expression: "1"},{expression: "request.foo"}]
- type: Webhook
  name: w
  webhook:
    connectionInfo: {type: KubeConfigFile}
- type: RBAC
  name: rbac
- type: RBAC
  name: rbac2
"""
PROBLEMS = r"""
authorizers[0].name: Invalid value: "BAD_name": authorizer name is invalid: a lowercase RFC 1123 subdomain must \
consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character \
(e.g. 'example.com', regex used for validation is \
'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
authorizers[0].webhook: Required value: required when type=Webhook
authorizers[1].timeout: Invalid value: "40s": must be > 0s and <= 30s
authorizers[1].unauthorizedTTL: Invalid value: "-1s": must be > 0s
authorizers[1].subjectAccessReviewVersion: Unsupported value: "v2": supported values: "v1", "v1beta1"
authorizers[1].matchConditionSubjectAccessReviewVersion: Unsupported value: "v2": supported values: "v1"
authorizers[1].failurePolicy: Unsupported value: "Foo": supported values: "NoOpinion", "Deny"
authorizers[1].connectionInfo.type: Unsupported value: {"Type":"Foo","KubeConfigFile":null}: supported values: \
"InClusterConfig", "KubeConfigFile"
authorizers[1].matchConditions[0].expression: Required value
authorizers[1].matchConditions[1].expression: Invalid value: "1": must evaluate to bool but got int
authorizers[1].matchConditions[2].expression: Invalid value: "request.foo": compilation failed: ERROR: <input>:1:8: \
undefined field 'foo'@ | request.foo@ | .......^
authorizers[2].name: Duplicate value: "w"
authorizers[2].timeout: Required value
authorizers[2].subjectAccessReviewVersion: Required value
authorizers[2].failurePolicy: Required value
authorizers[2].connectionInfo.kubeConfigFile: Required value
authorizers[4].type: Duplicate value: "RBAC"
"""


def test_every_problem_is_told_in_order() -> None:
    with pytest.raises(ConfigError) as refused:
        authorizers_of(yaml.safe_load(WRONG))
    lines = PROBLEMS.strip().replace("\\\n", "").split("\n")
    wanted = ", ".join(line.replace("@", "\n") for line in lines)
    assert str(refused.value) == f"[{wanted}]"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("authorizers: []", "authorizers: Required value: at least one authorization mode must be defined"),
        (
            "authorizers: [{type: Foo, name: x}]",
            (
                'authorizers[0].type: Unsupported value: "Foo": supported values: "AlwaysAllow", "AlwaysDeny", "Node", '
                '"RBAC", "Webhook"'
            ),
        ),
    ],
)
def test_no_authorizer(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        authorizers_of(yaml.safe_load(text))
    assert str(refused.value) == problem
