"""The scheduler's configuration: KubeSchedulerConfiguration v1, as values.

Source: Kubernetes documentation, "Scheduler Configuration".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.scheduler.extender import ExtenderConfig, load_extender

DEFAULT_SCHEDULER_NAME: Final = "default-scheduler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One scheduler name and its plugins.

    `enabled` maps further plugins to weights, or changes the weight of default ones; `disabled` names plugins to leave
    out ("*": all defaults). `args` maps a plugin's name to its arguments, in the file's camelCase.
    """

    scheduler_name: str = DEFAULT_SCHEDULER_NAME
    enabled: Mapping[str, int] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()
    args: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Times in seconds. `parallelism`: bindings written at once."""

    profiles: tuple[Profile, ...] = (Profile(),)
    pod_initial_backoff_seconds: float = 1.0
    pod_max_backoff_seconds: float = 10.0
    parallelism: int = 64
    extenders: tuple[ExtenderConfig, ...] = ()


def load(document: Mapping[str, Any]) -> SchedulerConfig:
    """From a decoded KubeSchedulerConfiguration. Raises ValueError with what is wrong."""
    kind = (document.get("apiVersion"), document.get("kind"))
    if kind != ("kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration"):
        raise ValueError(f"expected kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration, got {kind[0]} {kind[1]}")
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
    enabled = [{"name": name, "weight": weight} for name, weight in profile.enabled.items()]
    disabled = [{"name": name} for name in sorted(profile.disabled)]
    return {
        "schedulerName": profile.scheduler_name,
        "plugins": {"multiPoint": {"enabled": enabled, "disabled": disabled}},
        "pluginConfig": [{"name": name, "args": dict(args)} for name, args in profile.args.items()],
    }


def _extenders(documents: Sequence[Mapping[str, Any]]) -> tuple[ExtenderConfig, ...]:
    extenders = tuple(load_extender(document) for document in documents)
    if sum(bool(each.bind_verb) for each in extenders) > 1:
        raise ValueError("extenders: only one extender can implement bind")
    return extenders


def _profile(document: Mapping[str, Any]) -> Profile:
    enabled: dict[str, int] = {}
    disabled: set[str] = set()
    # A plugin is on or off as a whole here: every extension point's list counts.
    for point in (document.get("plugins") or {}).values():
        disabled |= {plugin["name"] for plugin in point.get("disabled") or ()}
        for plugin in point.get("enabled") or ():
            enabled[plugin["name"]] = plugin.get("weight", 0)
    args = {entry["name"]: entry.get("args") or {} for entry in document.get("pluginConfig") or ()}
    return Profile(
        scheduler_name=document.get("schedulerName", DEFAULT_SCHEDULER_NAME),
        enabled=enabled,
        disabled=frozenset(disabled - set(enabled)),
        args=args,
    )
