"""KubeSchedulerConfiguration: profiles and what they make of the plugins."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tests.unit.scheduler.builders import FixedNamespaces, PartialHandle
from tiphys.scheduler.config import Profile, document, load
from tiphys.scheduler.framework.runner import Framework
from tiphys.scheduler.plugins import make_plugins, only_named

HEAD = {"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"}


def weights(profile: Profile) -> dict[str, int]:
    handle = cast("Any", PartialHandle(FixedNamespaces()))
    return {plugin.name: weight for plugin, weight in make_plugins(profile, handle, lambda _: None)}


def framework_of(profile: Profile) -> Framework:
    handle = cast("Any", PartialHandle(FixedNamespaces()))
    made = make_plugins(profile, handle, lambda _: None)
    return Framework("x", made, profile.points, only_named(profile))


def profile_of(**plugins: Any) -> Profile:
    (profile,) = load({**HEAD, "profiles": [{"plugins": plugins}]}).profiles
    return profile


def test_defaults() -> None:
    config = load(HEAD)
    assert [profile.scheduler_name for profile in config.profiles] == ["default-scheduler"]
    assert (config.pod_initial_backoff_seconds, config.pod_max_backoff_seconds) == (1, 10)
    found = weights(config.profiles[0])
    assert (found["TaintToleration"], found["NodeAffinity"], found["ImageLocality"]) == (3, 2, 1)


def test_profiles_change_plugins() -> None:
    document = {
        **HEAD,
        "podMaxBackoffSeconds": 60,
        "profiles": [
            {"schedulerName": "default-scheduler"},
            {
                "schedulerName": "packer",
                "plugins": {
                    "score": {
                        "disabled": [{"name": "ImageLocality"}],
                        "enabled": [{"name": "NodeAffinity", "weight": 9}],
                    }
                },
                "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated"}}}],
            },
        ],
    }
    config = load(document)
    found = weights(config.profiles[1])
    assert found["ImageLocality"] == 1  # it is there, but not asked for a score
    scores = [(name, weight) for name, _, weight in framework_of(config.profiles[1])._score]
    assert scores[0] == ("NodeAffinity", 9)
    assert "ImageLocality" not in dict(scores) and ("TaintToleration", 3) in scores
    assert config.pod_max_backoff_seconds == 60


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"kind": "Pod", "apiVersion": "v1"}, "expected kubescheduler.config.k8s.io/v1"),
        (
            {**HEAD, "profiles": [{"schedulerName": "a"}, {"schedulerName": "a"}]},
            'duplicate profile with schedulerName "a"',
        ),
    ],
)
def test_what_is_wrong_is_said(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(document)


def test_unknown_plugins_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown plugins Nonsense"):
        weights(Profile(enabled={"Nonsense": 1}))
    with pytest.raises(ValueError, match="unknown scoring strategy X"):
        weights(Profile(args={"NodeResourcesFit": {"scoringStrategy": {"type": "X"}}}))


def test_a_profile_without_a_binder_is_refused() -> None:
    handle = cast("Any", PartialHandle(FixedNamespaces()))
    with pytest.raises(ValueError, match="no bind plugin"):
        Framework("x", make_plugins(Profile(disabled=frozenset({"DefaultBinder"})), handle, lambda _: None))


@pytest.mark.parametrize(
    ("extender", "words"),
    [
        ({}, "urlPrefix: Required value"),
        ({"urlPrefix": "http://e", "filterverb": "f"}, 'unknown field "filterverb"'),
        ({"urlPrefix": "http://e", "prioritizeVerb": "p"}, "weight must be positive"),
        ({"urlPrefix": "http://e", "httpTimeout": "soon"}, "soon"),
    ],
)
def test_extenders_that_cannot_be_used_are_told(extender: dict[str, object], words: str) -> None:
    head = {"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"}
    with pytest.raises(ValueError, match=words):
        load({**head, "extenders": [extender]})
    good = {"urlPrefix": "http://e/", "filterVerb": "f", "httpTimeout": "300ms"}
    (found,) = load({**head, "extenders": [good]}).extenders
    assert (found.url_prefix, found.timeout) == ("http://e", 0.3)
    with pytest.raises(ValueError, match="only one extender can implement bind"):
        load({**head, "extenders": [{"urlPrefix": "http://e", "bindVerb": "b"}] * 2})


def test_what_is_shown_is_what_is_in_force() -> None:
    head = {"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"}
    everywhere = {"disabled": [{"name": "ImageLocality"}], "enabled": [{"name": "NodePorts"}]}
    profile = {
        "schedulerName": "packing",
        "plugins": {"multiPoint": everywhere, "score": {"disabled": [{"name": "*"}]}},
        "pluginConfig": [{"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 5}}],
    }
    extender = {
        "urlPrefix": "http://e",
        "preemptVerb": "p",
        "httpTimeout": "300ms",
        "managedResources": [{"name": "a/b", "ignoredByScheduler": True}],
    }
    config = load({**head, "podMaxBackoffSeconds": 4, "profiles": [profile], "extenders": [extender]})
    assert load(document(config)) == config


def test_a_plugin_that_does_not_score_filters_still() -> None:
    framework = framework_of(profile_of(score={"disabled": [{"name": "PodTopologySpread"}]}))
    assert "PodTopologySpread" not in [name for name, _, _ in framework._score]
    assert "PodTopologySpread" in dict(framework._filter)


def test_points_go_over_multi_point_and_that_over_the_defaults() -> None:
    few = framework_of(
        profile_of(
            multiPoint={"disabled": [{"name": "*"}], "enabled": [{"name": "DefaultBinder"}, {"name": "PrioritySort"}]},
            filter={"enabled": [{"name": "NodePorts"}, {"name": "NodeResourcesFit"}]},
            score={"enabled": [{"name": "NodeResourcesFit", "weight": 7}]},
        )
    )
    assert list(dict(few._filter)) == ["NodePorts", "NodeResourcesFit"]
    assert [(name, weight) for name, _, weight in few._score] == [("NodeResourcesFit", 7)]
    assert few._pre_filter == []  # both are where they are named only
    first = framework_of(profile_of(filter={"enabled": [{"name": "NodePorts"}]}))
    assert list(dict(first._filter))[:2] == ["NodePorts", "NodeUnschedulable"]
    none = framework_of(profile_of(score={"disabled": [{"name": "*"}]}))
    assert none._score == []
    with pytest.raises(ValueError, match="PrioritySort does not extend filter"):
        framework_of(profile_of(filter={"enabled": [{"name": "PrioritySort"}]}))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"leaderelection": {}}, 'unknown field "leaderelection"'),
        ({"profiles": [{"plugin": {}}]}, 'profiles: unknown field "plugin"'),
        ({"profiles": [{"plugins": {"filters": {}}}]}, 'plugins: unknown field "filters"'),
    ],
)
def test_what_nobody_knows_is_refused(document: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load({**HEAD, **document})
