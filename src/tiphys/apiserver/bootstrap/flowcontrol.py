"""The suggested and mandatory flow schemas and priority levels of v1.36.

https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#defaults
"""

from __future__ import annotations

from typing import Any, Final

Object = dict[str, Any]
GROUP: Final = "flowcontrol.apiserver.k8s.io"
API_VERSION: Final = f"{GROUP}/v1"
MANAGER: Final = "api-priority-and-fairness-config-producer-v1"

# Name → shares, lendable percent, (queues, hand size, queue length) or None to reject what is too much.
LEVELS: Final[dict[str, tuple[int, int, tuple[int, int, int] | None]]] = {
    "catch-all": (5, 0, None),
    "system": (30, 33, (64, 6, 50)),
    "node-high": (40, 25, (64, 6, 50)),
    "leader-election": (10, 0, (16, 4, 50)),
    "workload-high": (40, 50, (128, 6, 50)),
    "workload-low": (100, 90, (128, 6, 50)),
    "global-default": (20, 50, (128, 6, 50)),
}
_EVERYONE: Final = [
    {"kind": "Group", "group": {"name": "system:unauthenticated"}},
    {"kind": "Group", "group": {"name": "system:authenticated"}},
]
_ANY_RESOURCE: Final = {
    "verbs": ["*"],
    "apiGroups": ["*"],
    "resources": ["*"],
    "clusterScope": True,
    "namespaces": ["*"],
}
_ANY_PATH: Final = {"verbs": ["*"], "nonResourceURLs": ["*"]}
_ANYTHING: Final = {"resourceRules": [_ANY_RESOURCE], "nonResourceRules": [_ANY_PATH]}


def _group(name: str) -> Object:
    return {"kind": "Group", "group": {"name": name}}


def _user(name: str) -> Object:
    return {"kind": "User", "user": {"name": name}}


def _account(name: str) -> Object:
    return {"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}}


def _on(verbs: str, group: str, resources: str, namespaces: list[str], cluster: bool = False) -> Object:
    rule: Object = {"verbs": verbs.split(), "apiGroups": [group], "resources": resources.split()}
    if cluster:
        rule["clusterScope"] = True
    rule["namespaces"] = namespaces
    return rule


def _leases(namespaces: list[str]) -> Object:
    return {"resourceRules": [_on("get create update", "coordination.k8s.io", "leases", namespaces)]}


_NODE_HIGH: Final = {
    "resourceRules": [
        _on("*", "", "nodes nodes/status", ["*"], True),
        _on("*", "coordination.k8s.io", "leases", ["*"]),
    ]
}
_PROBES: Final = {"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]}
_ENDPOINTS: Final = {"resourceRules": [_on("get create update", "", "endpoints", ["*"])]}
_MANAGER_USER: Final = _user("system:kube-controller-manager")
_SCHEDULER_USER: Final = _user("system:kube-scheduler")

# Name → level, precedence, what tells flows apart, subjects, rules.
SCHEMAS: Final[dict[str, tuple[str, int, str, list[Object], Object]]] = {
    "exempt": ("exempt", 1, "", [_group("system:masters")], _ANYTHING),
    "probes": ("exempt", 2, "", _EVERYONE, _PROBES),
    "system-leader-election": (
        "leader-election",
        100,
        "ByUser",
        [_MANAGER_USER, _SCHEDULER_USER, _account("*")],
        _leases(["kube-system"]),
    ),
    "endpoint-controller": (
        "workload-high",
        150,
        "ByUser",
        [_MANAGER_USER, _account("endpoint-controller"), _account("endpointslicemirroring-controller")],
        _ENDPOINTS,
    ),
    "workload-leader-election": ("leader-election", 200, "ByUser", [_account("*")], _leases(["*"])),
    "system-node-high": ("node-high", 400, "ByUser", [_group("system:nodes")], _NODE_HIGH),
    "system-nodes": ("system", 500, "ByUser", [_group("system:nodes")], _ANYTHING),
    "kube-controller-manager": ("workload-high", 800, "ByNamespace", [_MANAGER_USER], _ANYTHING),
    "kube-scheduler": ("workload-high", 800, "ByNamespace", [_SCHEDULER_USER], _ANYTHING),
    "kube-system-service-accounts": ("workload-high", 900, "ByNamespace", [_account("*")], _ANYTHING),
    "service-accounts": ("workload-low", 9000, "ByUser", [_group("system:serviceaccounts")], _ANYTHING),
    "global-default": ("global-default", 9900, "ByUser", _EVERYONE, _ANYTHING),
    "catch-all": ("catch-all", 10000, "ByUser", _EVERYONE, _ANYTHING),
}


def _metadata(name: str) -> Object:
    return {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}


def levels() -> list[Object]:
    """Every priority level."""
    found: list[Object] = [
        _level("exempt", {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})
    ]
    for name, (shares, lendable, queuing) in LEVELS.items():
        response: Object = {"type": "Reject"}
        if queuing is not None:
            queues, hand, length = queuing
            response = {
                "type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length},
            }
        limited = {"nominalConcurrencyShares": shares, "limitResponse": response, "lendablePercent": lendable}
        found.append(_level(name, {"type": "Limited", "limited": limited}))
    return found


def _level(name: str, spec: Object) -> Object:
    return {"apiVersion": API_VERSION, "kind": "PriorityLevelConfiguration", "metadata": _metadata(name), "spec": spec}


def schemas() -> list[Object]:
    """Every flow schema."""
    found = []
    for name, (level, precedence, distinguisher, subjects, rules) in SCHEMAS.items():
        spec: Object = {"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence}
        if distinguisher:
            spec["distinguisherMethod"] = {"type": distinguisher}
        spec["rules"] = [{"subjects": subjects, **rules}]
        found.append({"apiVersion": API_VERSION, "kind": "FlowSchema", "metadata": _metadata(name), "spec": spec})
    return found
