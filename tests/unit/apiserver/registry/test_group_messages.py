"""What objects of the smaller groups hear of their mistakes, word for word as a v1.36 API server says it."""

# ruff: noqa: ISC004

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.apiserver.registry.test_messages import NOW, RESOURCE, judged
from tests.unit.apiserver.registry.test_strategies import NoObjects
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.registry.strategies import strategy_for
from tiphys.apiserver.registry.strategy import RequestContext

DEVICE = {"name": "d"}
ANY_VERB = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}
USER = {"kind": "User", "user": {"name": "u"}}
RULES = {"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]}


def resource_slice(*devices: dict[str, Any], **spec: Any) -> dict[str, Any]:
    pool = {"name": "p", "generation": 1, "resourceSliceCount": 1}
    listed = {"devices": list(devices)} if devices else {}
    return {"spec": {"driver": "d.example.com", "pool": pool, "nodeName": "n", **listed, **spec}}


def claim(**devices: Any) -> dict[str, Any]:
    request = {"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}}
    return {"spec": {"devices": {"requests": [request], **devices}}}


def flow_schema(**rule: Any) -> dict[str, Any]:
    whole = {"subjects": [USER], **rule}
    return {"spec": {"priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 5, "rules": [whole]}}


CASES: dict[str, tuple[str, str, dict[str, Any], list[str]]] = {
    "an attribute without a value": (
        "resource.k8s.io",
        "resourceslices",
        resource_slice({**DEVICE, "attributes": {"k": {}}}),
        ['spec.devices[0].attributes[k]: Invalid value: "": exactly one value must be specified'],
    ),
    "an attribute that is no version": (
        "resource.k8s.io",
        "resourceslices",
        resource_slice({**DEVICE, "attributes": {"k": {"version": "1.0"}}}),
        [
            'spec.devices[0].attributes[k].version: Invalid value: "1.0": must be a string compatible with '
            "semver.org spec 2.0.0"
        ],
    ),
    "devices with and without conditions": (
        "resource.k8s.io",
        "resourceslices",
        resource_slice({**DEVICE, "bindingConditions": ["a", "a"]}),
        [
            'spec.devices[0].bindingConditions[1]: Duplicate value: "a"',
            "spec.devices[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to "
            "use bindingConditions",
        ],
    ),
    "counters of no set": (
        "resource.k8s.io",
        "resourceslices",
        resource_slice({**DEVICE, "consumesCounters": [{}]}, sharedCounters=[]),
        [
            'spec: Invalid value: "": only one of `sharedCounters` or `devices` is allowed',
            "spec.devices[0].consumesCounters[0].counterSet: Required value",
            "spec.devices[0].consumesCounters[0].counters: Required value",
        ],
    ),
    "a range of requests": (
        "resource.k8s.io",
        "resourceslices",
        resource_slice(
            {
                **DEVICE,
                "allowMultipleAllocations": True,
                "capacity": {
                    "a": {
                        "value": "4",
                        "requestPolicy": {"default": "1", "validRange": {"min": "2", "max": "6", "step": "3"}},
                    }
                },
            }
        ),
        [
            'spec.devices[0].capacity[a].requestPolicy.validRange.max: Invalid value: "6": max is larger than '
            "capacity value: 4",
            'spec.devices[0].capacity[a].requestPolicy.validRange.min: Invalid value: "1": default is less than min: 2',
            'spec.devices[0].capacity[a].requestPolicy.validRange.step: Invalid value: "1": value is not a multiple '
            "of a given step (3) from (2)",
            'spec.devices[0].capacity[a].requestPolicy.validRange.step: Invalid value: "3": one step 5 is larger than '
            "capacity value: 4",
            'spec.devices[0].capacity[a].requestPolicy.validRange.step: Invalid value: "6": value is not a multiple '
            "of a given step (3) from (2)",
        ],
    ),
    "a device on a node of its own": (
        "resource.k8s.io",
        "resourceslices",
        resource_slice({**DEVICE, "nodeName": "a"}),
        [
            "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if "
            "`perDeviceNodeSelection` is set to true in the ResourceSlice spec"
        ],
    ),
    "an attribute without a domain": (
        "resource.k8s.io",
        "resourceclaims",
        claim(constraints=[{"requests": ["r"], "matchAttribute": "/a"}]),
        ['spec.devices.constraints[0].matchAttribute: Invalid value: "": the domain must not be empty'],
    ),
    "too many of a list": (
        "resource.k8s.io",
        "resourceclaims",
        claim(constraints=[{"requests": ["r"], "matchAttribute": "d/a"}] * 33),
        ["spec.devices.constraints: Too many: 33: must have at most 32 items"],
    ),
    "a template with a name": (
        "resource.k8s.io",
        "resourceclaimtemplates",
        {"spec": {"metadata": {"name": "x", "uid": "u", "finalizers": []}, "spec": claim()["spec"]}},
        [
            "spec.metadata.finalizers: Forbidden: cannot be set",
            "spec.metadata.name: Forbidden: cannot be set",
            "spec.metadata.uID: Forbidden: cannot be set",
        ],
    ),
    "all verbs and one more": (
        "flowcontrol.apiserver.k8s.io",
        "flowschemas",
        flow_schema(resourceRules=[{**ANY_VERB, "verbs": ["*", "get"]}]),
        [
            'spec.rules[0].resourceRules[0].verbs: Invalid value: ["*","get"]: if \'*\' is present, must not specify '
            "other verbs"
        ],
    ),
    "paths": (
        "flowcontrol.apiserver.k8s.io",
        "flowschemas",
        flow_schema(nonResourceRules=[{"verbs": ["get"], "nonResourceURLs": ["a", "/a b", "/a//b", "/a*", "/a/*"]}]),
        [
            'spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: "a": must start with slash',
            'spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: "/a b": must not contain white-space',
            'spec.rules[0].nonResourceRules[0].nonResourceURLs[2]: Invalid value: "/a//b": must not contain double '
            "slash",
            'spec.rules[0].nonResourceRules[0].nonResourceURLs[3]: Invalid value: "/a*": wildcard can only do suffix '
            "matching",
        ],
    ),
    "a hand too large": (
        "flowcontrol.apiserver.k8s.io",
        "prioritylevelconfigurations",
        {
            "spec": {
                "type": "Limited",
                "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 20}}},
            }
        },
        [
            "spec.limited.limitResponse.queuing.handSize: Invalid value: 20: required entropy bits of deckSize 64 and "
            "handSize 20 should not be greater than 60"
        ],
    ),
    "the level that must be": (
        "flowcontrol.apiserver.k8s.io",
        "prioritylevelconfigurations",
        {"metadata": {"name": "exempt"}, "spec": {}},
        [
            "spec.type: Invalid value: \"\": must be 'Exempt' if and only if `name` is 'exempt'",
            'spec.type: Unsupported value: "": supported values: "Exempt", "Limited"',
            'spec: Invalid value: {"Type":"","Limited":null,"Exempt":null}: spec of \'exempt\' except the '
            "'spec.exempt' field must equal the fixed value",
        ],
    ),
    "an inline volume that is an object": (
        "storage.k8s.io",
        "volumeattachments",
        {
            "spec": {
                "attacher": "d",
                "nodeName": "n",
                "source": {"inlineVolumeSpec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}},
            }
        },
        [
            "spec.source.inlineVolumeSpec.capacity: Forbidden: may not be specified in the context of inline volumes",
            "spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes",
            "spec.source.inlineVolumeSpec: Required value: must specify a volume type",
        ],
    ),
    "topologies alike": (
        "storage.k8s.io",
        "storageclasses",
        {
            "provisioner": "p",
            "allowedTopologies": [
                {"matchLabelExpressions": [{"key": "a", "values": ["c", "b", "b"]}]},
                {"matchLabelExpressions": [{"key": "a", "values": ["b", "c"]}]},
            ],
        },
        [
            'allowedTopologies[0].matchLabelExpressions[0].values[2]: Duplicate value: "b"',
            'allowedTopologies[1].matchLabelExpressions: Duplicate value: ""',
        ],
    ),
    "a signer": (
        "certificates.k8s.io",
        "certificatesigningrequests",
        {"spec": {"signerName": "a..c/d", "usages": ["client auth"]}},
        [
            "spec.request: Invalid value: null: PEM block type must be CERTIFICATE REQUEST",
            'spec.signerName: Invalid value: "a..c": validating label "": a lowercase RFC 1123 label must consist of '
            "lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. "
            "'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ],
    ),
    "what is wrong with expressions and with the rest": (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        {
            "spec": {
                "failurePolicy": "X",
                "matchConstraints": RULES,
                "variables": [{"name": "if", "expression": "1"}],
                "matchConditions": [{"name": "a", "expression": "variables.v == 1"}],
                "validations": [{"expression": "5", "messageExpression": " "}],
            }
        },
        [
            'spec.failurePolicy: Unsupported value: "X": supported values: "Fail", "Ignore"',
            'spec.matchConditions[0].expression: Invalid value: "variables.v == 1": compilation failed: ERROR: '
            "<input>:1:1: undeclared reference to 'variables' (in container '')\n | variables.v == 1\n | ^",
            'spec.validations[0].expression: Invalid value: "5": must evaluate to bool but got int',
            'spec.validations[0].messageExpression: Invalid value: " ": must be non-empty if specified',
            'spec.variables[0].name: Invalid value: "if": must be a valid CEL identifier',
        ],
    ),
    "a mutation of what is deleted": (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicybindings",
        {
            "spec": {
                "policyName": "p",
                "matchResources": {"resourceRules": [{**RULES["resourceRules"][0], "operations": ["DELETE"]}]},
            }
        },
        [
            'spec.matchResources.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", '
            '"CONNECT", "CREATE", "UPDATE"'
        ],
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_words(case: tuple[str, str, dict[str, Any], list[str]]) -> None:
    group, plural, obj, wanted = case
    assert judged(plural, obj, group)[0] == sorted(wanted)


@pytest.mark.parametrize(("plural", "alone"), [("resourceclaims", True), ("deployments", False)])
def test_what_a_status_takes_along(plural: str, alone: bool) -> None:
    group = "resource.k8s.io" if alone else "apps"
    strategy = strategy_for(RESOURCE[group, plural])
    old = {"metadata": {"name": "x", "annotations": {"a": "b"}}, "spec": {}, "status": {}}
    new = {"metadata": {"name": "x", "annotations": {"c": "d"}}, "spec": {}, "status": {}}
    strategy.prepare_for_status_update(RequestContext(user=UserInfo("me"), now=NOW, reader=NoObjects()), new, old)
    assert new["metadata"]["annotations"] == ({"a": "b"} if alone else {"c": "d"})


def test_what_may_not_change_is_printed_whole() -> None:
    strategy = strategy_for(RESOURCE["storage.k8s.io", "volumeattachments"])
    old = {"spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "p"}}}
    new = {"spec": {"attacher": "d", "nodeName": "m", "source": {"persistentVolumeName": "p"}}}
    assert [str(error) for error in strategy.validate_update(new, old)] == [
        'spec: Invalid value: {"Attacher":"d","Source":{"PersistentVolumeName":"p","InlineVolumeSpec":null},'
        '"NodeName":"m"}: field is immutable'
    ]


def definition(schema: dict[str, Any], **version: Any) -> dict[str, Any]:
    whole = {"type": "object", "properties": {"a": schema}}
    return {
        "metadata": {"name": "foos.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Cluster",
            "names": {"plural": "foos", "kind": "Foo"},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": whole}, **version}
            ],
        },
    }


AT = "spec.validation.openAPIV3Schema.properties[a]"


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        (
            {"type": "string", "x-kubernetes-map-type": "atomic"},
            [f'{AT}.type: Invalid value: "string": must be object if x-kubernetes-map-type is specified'],
        ),
        (
            {"x-kubernetes-int-or-string": True, "x-kubernetes-list-type": "atomic"},
            [f"{AT}.type: Required value: must be array if x-kubernetes-list-type is specified"],
        ),
        (
            {"type": "string", "$schema": "x"},
            ["spec.validation.openAPIV3Schema: Invalid value: \"\": OpenAPIV3Schema 'schema' is not supported"],
        ),
        (
            {"type": "string", "not": {"default": 0, "title": "t", "$ref": "x"}},
            [
                f"{AT}.not.$ref: Forbidden: $ref is not supported",
                f"{AT}.not.default: Forbidden: must be undefined to be structural",
                f"{AT}.not.title: Forbidden: must be empty to be structural",
            ],
        ),
        (
            {"type": "string", "x-kubernetes-validations": [{"rule": "true", "optionalOldSelf": True}]},
            [
                f"{AT}.x-kubernetes-validations[0].optionalOldSelf: Invalid value: true: may not be set if oldSelf is "
                "not used in rule"
            ],
        ),
    ],
)
def test_schemas(schema: dict[str, Any], wanted: list[str]) -> None:
    found, _ = judged("customresourcedefinitions", definition(schema), "apiextensions.k8s.io")
    assert found == wanted


def test_formats_nobody_knows_are_told() -> None:
    obj = definition({"type": "string", "format": "foo"})
    assert judged("customresourcedefinitions", obj, "apiextensions.k8s.io") == ([], ['unrecognized format "foo"'])
