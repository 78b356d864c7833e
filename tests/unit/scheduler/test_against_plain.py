"""Random clusters and pods: the arrays and `plain.py` must agree on every node, pod after pod.

TIPHYS_TEST_PLACEMENTS is how many clusters are tried, each with up to eight pods.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.scheduler import plain
from tests.unit.scheduler.builders import HOSTNAME, ZONE, make_cache, make_framework, make_node, make_pod
from tiphys.api.core.v1 import Node
from tiphys.scheduler.framework.diagnosis import Unschedulable
from tiphys.scheduler.framework.interface import CycleState
from tiphys.scheduler.podinfo import PodInfo

CLUSTERS = int(os.environ.get("TIPHYS_TEST_PLACEMENTS", "150"))
APPS = ["web", "db"]
EFFECTS = ["NoSchedule", "PreferNoSchedule", "NoExecute"]

selectors = st.sampled_from([{"matchLabels": {"app": app}} for app in APPS] + [{}])
keys = st.sampled_from([HOSTNAME, ZONE, "rack"])
taints = st.builds(
    lambda key, value, effect: {"key": key, "value": value, "effect": effect},
    st.sampled_from(["k", "j"]),
    st.sampled_from(["1", "2"]),
    st.sampled_from(EFFECTS),
)


@st.composite
def nodes(draw: st.DrawFn) -> list[Node]:
    made = []
    for number in range(draw(st.integers(1, 6))):
        labels = {}
        for key in (ZONE, "rack", "cores"):
            value = draw(st.sampled_from([None, "1", "2", "16"]))
            if value is not None:
                labels[key] = value
        made.append(
            make_node(
                f"n{number}",
                cpu=draw(st.sampled_from(["1", "2", "7"])),
                memory=draw(st.sampled_from(["1Gi", "3Gi", "8Gi"])),
                pods=draw(st.sampled_from(["2", "110"])),
                labels=labels,
                taints=draw(st.lists(taints, max_size=2, unique_by=lambda taint: (taint["key"], taint["effect"]))),
                unschedulable=draw(st.sampled_from([False, False, False, True])),
            )
        )
    return made


@st.composite
def expressions(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]))
    values: list[str] = []
    if operator in ("In", "NotIn"):
        values = draw(st.lists(st.sampled_from(["1", "2", "16"]), min_size=1, max_size=2, unique=True))
    elif operator in ("Gt", "Lt"):
        values = [draw(st.sampled_from(["1", "8"]))]
    return {"key": draw(st.sampled_from([ZONE, "rack", "cores"])), "operator": operator, "values": values}


@st.composite
def pod_terms(draw: st.DrawFn) -> dict[str, Any]:
    term: dict[str, Any] = {"labelSelector": draw(selectors), "topologyKey": draw(keys)}
    if draw(st.booleans()):
        term["namespaces"] = draw(st.sampled_from([["default"], ["default", "other"]]))
    return term


def weighted(name: str, terms: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda weight, term: {"weight": weight, name: term}, st.integers(1, 100), terms)


def rules(required: st.SearchStrategy[Any], preferred: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "requiredDuringSchedulingIgnoredDuringExecution": required,
            "preferredDuringSchedulingIgnoredDuringExecution": st.lists(preferred, max_size=2),
        }
    )


node_terms = st.builds(lambda found: {"matchExpressions": found}, st.lists(expressions(), min_size=1, max_size=2))
node_rules = rules(
    st.one_of(
        st.none(), st.builds(lambda terms: {"nodeSelectorTerms": terms}, st.lists(node_terms, min_size=1, max_size=2))
    ),
    weighted("preference", node_terms),
)
pod_rules = rules(st.lists(pod_terms(), max_size=2), weighted("podAffinityTerm", pod_terms()))
spreads = st.fixed_dictionaries(
    {
        "maxSkew": st.integers(1, 3),
        "topologyKey": keys,
        "whenUnsatisfiable": st.sampled_from(["DoNotSchedule", "ScheduleAnyway"]),
        "labelSelector": selectors,
        "nodeAffinityPolicy": st.sampled_from(["Honor", "Ignore"]),
        "nodeTaintsPolicy": st.sampled_from(["Honor", "Ignore"]),
    }
)
tolerations = st.sampled_from(
    [{"operator": "Exists"}, {"key": "k", "value": "1"}, {"key": "j", "operator": "Exists", "effect": "NoSchedule"}]
)


@st.composite
def pods(draw: st.DrawFn) -> PodInfo:
    requests = {
        name: draw(st.sampled_from(amounts))
        for name, amounts in (("cpu", ["100m", "333m", "1"]), ("memory", ["100Mi", "1Gi"]))
        if draw(st.booleans())
    }
    affinity = {
        name: draw(found)
        for name, found in (("nodeAffinity", node_rules), ("podAffinity", pod_rules), ("podAntiAffinity", pod_rules))
        if draw(st.integers(0, 3)) == 0
    }
    return make_pod(
        requests=requests,
        namespace=draw(st.sampled_from(["default", "other"])),
        labels={"app": draw(st.sampled_from(APPS))},
        affinity=affinity or None,
        tolerations=draw(st.lists(tolerations, max_size=1)),
        nodeSelector=draw(st.sampled_from([{}, {}, {ZONE: "1"}])),
        topologySpreadConstraints=draw(
            st.lists(spreads, max_size=2, unique_by=lambda rule: (rule["topologyKey"], rule["whenUnsatisfiable"]))
        ),
        metadata={"deletionTimestamp": "2024-01-01T00:00:00Z"} if draw(st.integers(0, 9)) == 0 else {},
    )


@settings(
    max_examples=CLUSTERS, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(nodes(), st.lists(pods(), min_size=1, max_size=8), st.data())
def test_arrays_agree_with_plain_python(made: list[Node], incoming: list[PodInfo], data: st.DataObject) -> None:
    cache, framework = make_cache(*made), make_framework()
    table = cache.nodes
    by_name = {node.metadata.name: node for node in made}
    placed: dict[str, list[PodInfo]] = {}
    for pod in incoming:
        state = CycleState()
        found = framework.find_feasible(state, pod, table)
        expected = plain.feasible(pod, by_name, placed)
        if isinstance(found, Unschedulable):
            assert not expected
            assert sum(int(reason.rows.any()) for reason in found.reasons)
            continue
        names = {table.name_of(row) for row in range(table.width) if found[row]}
        assert names == expected
        check_scores(framework, state, pod, found, plain.parts(pod, names, by_name, placed), cache)
        node = data.draw(st.sampled_from(sorted(names)))
        cache.assume(pod, node)
        placed.setdefault(node, []).append(pod)
        if data.draw(st.integers(0, 3)) == 0:
            gone_from = data.draw(st.sampled_from(sorted(name for name in placed if placed[name])))
            gone = placed[gone_from].pop(0)
            cache.forget(gone)
            if not placed[gone_from]:
                del placed[gone_from]


def check_scores(
    framework: Any, state: CycleState, pod: PodInfo, found: Any, expected: dict[str, dict[str, float]], cache: Any
) -> None:
    """Plugin by plugin; a plugin that has nothing to say must have scored all nodes equally."""
    table = cache.nodes
    framework.score(state, pod, table, found)
    for name, plugin, _ in framework._score:
        if name not in expected:
            continue
        wanted = expected[name]
        raw = None if name in state.skip_score else plugin.score(state, pod, table, found)
        if raw is None:
            assert len(set(wanted.values())) == 1, name
            continue
        for row in range(table.width):
            if found[row]:
                # Upstream computes this one in floats as well: a whole number may come out just below.
                tolerance = 1.0 if name == "NodeResourcesBalancedAllocation" else 0.0
                assert abs(float(raw[row]) - wanted[table.name_of(row)]) <= tolerance, (name, table.name_of(row))
