"""The scheduler's configuration: KubeSchedulerConfiguration v1, as values.

Source: Kubernetes documentation, "Scheduler Configuration".
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.scheduler.extender import ExtenderConfig, load_extender

DEFAULT_SCHEDULER_NAME: Final = "default-scheduler"


MULTI_POINT: Final = "multiPoint"
POINTS: Final = frozenset(
    {
        *("preEnqueue", "queueSort", "preFilter", "filter", "postFilter", "preScore", "score", "reserve", "permit"),
        *("preBind", "bind", "postBind", MULTI_POINT),
    }
)
_KNOWN: Final = frozenset(
    {
        *("apiVersion", "kind", "parallelism", "leaderElection", "clientConnection", "profiles", "extenders"),
        *("podInitialBackoffSeconds", "podMaxBackoffSeconds"),
        # All nodes are looked at, and there is no profiler.
        *("percentageOfNodesToScore", "enableProfiling", "enableContentionProfiling", "delayCacheUntilActive"),
    }
)


@dataclass(frozen=True, slots=True)
class Point:
    """One extension point: plugins with their weights, in order, and those left out there ("*": all others)."""

    enabled: tuple[tuple[str, int], ...] = ()
    disabled: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One scheduler name and its plugins.

    `enabled` maps further plugins to weights, or changes the weight of default ones; `disabled` names plugins to leave
    out ("*": all defaults); both as the file's multiPoint. `points` has what differs at single extension points, by the
    file's name of the point. `args` maps a plugin's name to its arguments, in the file's camelCase.
    """

    scheduler_name: str = DEFAULT_SCHEDULER_NAME
    enabled: Mapping[str, int] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()
    points: Mapping[str, Point] = field(default_factory=dict)
    args: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Times in seconds. `parallelism`: bindings written at once."""

    profiles: tuple[Profile, ...] = (Profile(),)
    pod_initial_backoff_seconds: float = 1.0
    pod_max_backoff_seconds: float = 10.0
    parallelism: int = 64
    extenders: tuple[ExtenderConfig, ...] = ()
    leader_election: Mapping[str, Any] = field(default_factory=dict)  # as the file has it
    kubeconfig: str = ""


def load(document: Mapping[str, Any]) -> SchedulerConfig:
    """From a decoded KubeSchedulerConfiguration. Raises ValueError with what is wrong."""
    kind = (document.get("apiVersion"), document.get("kind"))
    if kind != ("kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration"):
        raise ValueError(f"expected kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration, got {kind[0]} {kind[1]}")
    _refuse_unknown(document, _KNOWN, "")
    given: Sequence[Mapping[str, Any]] = document.get("profiles") or ({},)
    profiles = tuple(_profile(profile) for profile in given)
    names = [profile.scheduler_name for profile in profiles]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'duplicate profile with schedulerName "{name}"')
    defaults = SchedulerConfig()
    return SchedulerConfig(
        profiles=profiles,
        pod_initial_backoff_seconds=document.get("podInitialBackoffSeconds", defaults.pod_initial_backoff_seconds),
        pod_max_backoff_seconds=document.get("podMaxBackoffSeconds", defaults.pod_max_backoff_seconds),
        parallelism=document.get("parallelism", defaults.parallelism),
        extenders=_extenders(document.get("extenders") or ()),
        leader_election=document.get("leaderElection") or {},
        kubeconfig=(document.get("clientConnection") or {}).get("kubeconfig") or "",
    )


def document(config: SchedulerConfig) -> dict[str, Any]:
    """The configuration in force, as /configz shows it."""
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "parallelism": config.parallelism,
        "podInitialBackoffSeconds": config.pod_initial_backoff_seconds,
        "podMaxBackoffSeconds": config.pod_max_backoff_seconds,
        "profiles": [_told(profile) for profile in config.profiles],
        "extenders": [
            {
                "urlPrefix": each.url_prefix,
                "filterVerb": each.filter_verb,
                "preemptVerb": each.preempt_verb,
                "prioritizeVerb": each.prioritize_verb,
                "bindVerb": each.bind_verb,
                "weight": each.weight,
                "httpTimeout": f"{each.timeout:g}s",
                "nodeCacheCapable": each.node_cache_capable,
                "ignorable": each.ignorable,
                "managedResources": [
                    {"name": name, "ignoredByScheduler": name in each.ignored_resources}
                    for name in sorted(each.managed_resources)
                ],
            }
            for each in config.extenders
        ],
    }


def _told(profile: Profile) -> dict[str, Any]:
    everywhere = Point(tuple(profile.enabled.items()), profile.disabled)
    return {
        "schedulerName": profile.scheduler_name,
        "plugins": {
            name: {
                "enabled": [{"name": plugin, "weight": weight} for plugin, weight in point.enabled],
                "disabled": [{"name": plugin} for plugin in sorted(point.disabled)],
            }
            for name, point in {MULTI_POINT: everywhere, **profile.points}.items()
        },
        "pluginConfig": [{"name": name, "args": dict(args)} for name, args in profile.args.items()],
    }


def _extenders(documents: Sequence[Mapping[str, Any]]) -> tuple[ExtenderConfig, ...]:
    extenders = tuple(load_extender(document) for document in documents)
    if sum(bool(each.bind_verb) for each in extenders) > 1:
        raise ValueError("extenders: only one extender can implement bind")
    return extenders


def _profile(document: Mapping[str, Any]) -> Profile:
    name = document.get("schedulerName", DEFAULT_SCHEDULER_NAME)
    _refuse_unknown(document, {"schedulerName", "percentageOfNodesToScore", "plugins", "pluginConfig"}, "profiles: ")
    points = {point: _point(lists or {}) for point, lists in (document.get("plugins") or {}).items()}
    _refuse_unknown(points, POINTS, f"profile {name}: plugins: ")
    everywhere = points.pop(MULTI_POINT, Point())
    return Profile(
        scheduler_name=name,
        enabled=dict(everywhere.enabled),
        disabled=everywhere.disabled,
        points=points,
        args={entry["name"]: entry.get("args") or {} for entry in document.get("pluginConfig") or ()},
    )


def _point(lists: Mapping[str, Any]) -> Point:
    enabled = tuple((plugin["name"], int(plugin.get("weight") or 0)) for plugin in lists.get("enabled") or ())
    return Point(enabled, frozenset(plugin["name"] for plugin in lists.get("disabled") or ()))


def _refuse_unknown(given: Iterable[str], known: Container[str], where: str) -> None:
    for name in sorted(given):
        if name not in known:
            raise ValueError(f'{where}unknown field "{name}"')
