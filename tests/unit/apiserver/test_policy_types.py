"""Type checking of policies: what is said of expressions that do not fit the kinds they are about."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tiphys.api.admissionregistration.v1 import ValidatingAdmissionPolicy
from tiphys.apiserver.admission.policies.typecheck import PolicyTypeChecker

DEPLOYMENTS = {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}


def policy(expression: str, *, rule: dict[str, Any] | None = None, **spec: Any) -> ValidatingAdmissionPolicy:
    rules = [{**DEPLOYMENTS, **(rule or {}), "operations": ["CREATE"]}]
    spec = {"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": expression}], **spec}
    return msgspec.convert({"metadata": {"name": "p"}, "spec": spec}, ValidatingAdmissionPolicy)


@pytest.mark.parametrize(
    "expression",
    [
        "object.spec.replicas > 1",
        "object.spec.template.spec.containers.all(c, c.image.startsWith('x'))",
        "has(object.metadata.labels) && object.metadata.labels['a'] == 'b'",
        "object.metadata.namespace == 'x' && object.metadata.__namespace__ == 'x'",
        "object.spec.template.spec.containers[0].resources.limits['cpu'] != ''",
        "request.userInfo.username == 'x' && params.anything == 1",
        "object.metadata.creationTimestamp < timestamp('2024-01-01T00:00:00Z')",
    ],
)
def test_what_fits_is_not_spoken_of(expression: str) -> None:
    assert PolicyTypeChecker().warnings(policy(expression)) == []


def test_an_undefined_field_is_pointed_at() -> None:
    ((place, text),) = PolicyTypeChecker().warnings(policy("object.spec.replica > 1"))
    assert place == "spec.validations[0].expression"
    assert text == (
        "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'replica'\n"
        " | object.spec.replica > 1\n | ...........^\n"
    )


def test_every_kind_has_its_own_word_and_wildcards_have_none() -> None:
    both = policy("object.spec.replicas > 1", rule={"resources": ["deployments", "daemonsets"]})
    ((_, text),) = PolicyTypeChecker().warnings(both)
    assert text.startswith("apps/v1, Kind=DaemonSet: ")
    assert PolicyTypeChecker().warnings(policy("object.nothing", rule={"resources": ["*"]})) == []
    assert PolicyTypeChecker().warnings(policy("object.nothing", rule={"resources": ["unheardofs"]})) == []


def test_variables_have_the_types_of_their_expressions() -> None:
    variables = [
        {"name": "spec", "expression": "object.spec"},
        {"name": "count", "expression": "variables.spec.replicas"},
    ]
    assert PolicyTypeChecker().warnings(policy("variables.count > 1", variables=variables)) == []
    ((_, text),) = PolicyTypeChecker().warnings(policy("variables.spec.replica > 1", variables=variables))
    assert "undefined field 'replica'" in text
