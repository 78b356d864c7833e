"""Which schema a request belongs to, with those of a new cluster."""

import pytest

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.bootstrap import flowcontrol as bootstrap
from tiphys.apiserver.endpoints.request_info import parse_request_info
from tiphys.apiserver.flowcontrol.config import FlowControl

ROOT = UserInfo("root", groups=("system:masters", "system:authenticated"))
NODE = UserInfo("system:node:n", groups=("system:nodes", "system:authenticated"))
MANAGER = UserInfo("system:kube-controller-manager", groups=("system:authenticated",))
ACCOUNTS = ("system:serviceaccounts", "system:serviceaccounts:d", "system:authenticated")
ACCOUNT = UserInfo("system:serviceaccount:d:a", groups=ACCOUNTS)
SYSTEM_ACCOUNT = UserInfo("system:serviceaccount:kube-system:a", groups=ACCOUNTS)
ENDPOINTS_ACCOUNT = UserInfo("system:serviceaccount:kube-system:endpoint-controller", groups=ACCOUNTS)
JOE = UserInfo("joe", groups=("system:authenticated",))
NOBODY = UserInfo("system:anonymous", groups=("system:unauthenticated",))
GROUPLESS = UserInfo("odd")
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/x"


@pytest.mark.parametrize(
    ("user", "method", "path", "schema", "level", "flow"),
    [
        (ROOT, "GET", "/api/v1/pods", "exempt", "exempt", ""),
        (NOBODY, "GET", "/healthz", "probes", "exempt", ""),
        (NOBODY, "GET", "/healthz/etcd", "global-default", "global-default", "system:anonymous"),
        (MANAGER, "PUT", LEASES.format("kube-system"), "system-leader-election", "leader-election", MANAGER.name),
        (MANAGER, "PUT", LEASES.format("d"), "kube-controller-manager", "workload-high", "d"),
        (ACCOUNT, "PUT", LEASES.format("d"), "service-accounts", "workload-low", ACCOUNT.name),
        (SYSTEM_ACCOUNT, "PUT", LEASES.format("d"), "workload-leader-election", "leader-election", SYSTEM_ACCOUNT.name),
        (ENDPOINTS_ACCOUNT, "PUT", "/api/v1/namespaces/d/endpoints/x", "endpoint-controller", "workload-high", ...),
        (NODE, "PATCH", "/api/v1/nodes/n/status", "system-node-high", "node-high", "system:node:n"),
        (NODE, "PUT", LEASES.format("kube-node-lease"), "system-node-high", "node-high", "system:node:n"),
        (NODE, "GET", "/api/v1/pods", "system-nodes", "system", "system:node:n"),
        (SYSTEM_ACCOUNT, "GET", "/api/v1/pods", "kube-system-service-accounts", "workload-high", ""),
        (ACCOUNT, "GET", "/api/v1/namespaces/d/pods/p", "service-accounts", "workload-low", ACCOUNT.name),
        (JOE, "GET", "/version", "global-default", "global-default", "joe"),
        (GROUPLESS, "GET", "/version", "catch-all", "catch-all", "odd"),
    ],
)
def test_bootstrap_schemas(user: UserInfo, method: str, path: str, schema: str, level: str, flow: object) -> None:
    control = FlowControl(600, lambda: 0.0)
    control.configure(bootstrap.levels(), bootstrap.schemas())
    info = parse_request_info(method, path, {})
    for _ in range(2):  # the second answer is a remembered one
        found = control.classify(user, info)
        assert (found.schema.name, found.level.spec.name) == (schema, level)
    assert flow is ... or found.schema.flow_of(user, info) == flow


def test_a_schema_without_its_level_is_as_if_it_were_not_there() -> None:
    control = FlowControl(600, lambda: 0.0)
    schemas = bootstrap.schemas()
    levels = [level for level in bootstrap.levels() if level["metadata"]["name"] != "global-default"]
    control.configure(levels, schemas)
    assert control.classify(JOE, parse_request_info("GET", "/version", {})).schema.name == "catch-all"
    control.configure((), ())
    assert control.classify(JOE, parse_request_info("GET", "/version", {})).level.spec.name == "catch-all"
    assert control.classify(ROOT, parse_request_info("GET", "/version", {})).level.spec.exempt


def test_lower_precedence_first_then_the_name() -> None:
    def schema(name: str, precedence: int) -> dict[str, object]:
        rule = {
            "subjects": [{"kind": "User", "user": {"name": "*"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/v*"]}],
        }
        level = {"name": "catch-all"}
        spec = {"priorityLevelConfiguration": level, "matchingPrecedence": precedence, "rules": [rule]}
        return {"metadata": {"name": name}, "spec": spec}

    control = FlowControl(600, lambda: 0.0)
    control.configure((), [schema("b", 7), schema("c", 7), schema("a", 8)])
    info = parse_request_info("GET", "/version", {})
    assert control.classify(JOE, info).schema.name == "b"
    control.configure((), [schema("c", 7), schema("a", 6)])
    assert control.classify(JOE, info).schema.name == "a"
    other = parse_request_info("POST", "/version", {})
    assert control.classify(JOE, other).schema.name == "catch-all"
