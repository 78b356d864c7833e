"""A pod as the checks see it, and how they word what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a pod breaks a standard: `reason` names the rule, `detail` the places."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@dataclass(frozen=True, slots=True)
class Pod:
    """Metadata and spec of a pod or of a template of pods."""

    metadata: Object
    spec: Object

    @property
    def security(self) -> Object:
        """The pod's own security context."""
        return self.spec.get("securityContext") or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.metadata.get("annotations") or {}

    @property
    def is_windows(self) -> bool:
        return bool((self.spec.get("os") or {}).get("name") == "windows")

    @property
    def has_user_namespace(self) -> bool:
        """Root in such a pod is nobody on the node."""
        return self.spec.get("hostUsers") is False

    def containers(self) -> Iterator[Object]:
        """Every container: init, ordinary and ephemeral ones."""
        for key in ("initContainers", "containers", "ephemeralContainers"):
            yield from self.spec.get(key) or ()

    def contexts(self) -> Iterator[tuple[str, Object]]:
        """Name and security context of every container."""
        for container in self.containers():
            yield container.get("name", ""), container.get("securityContext") or {}


def quoted(names: Iterable[str]) -> str:
    """`"a", "b"`."""
    return ", ".join(f'"{name}"' for name in names)


def counted(word: str, names: list[str]) -> str:
    """`container "a"` or `containers "a", "b"`."""
    return f"{word if len(names) == 1 else word + 's'} {quoted(names)}"


def setters(pod_is_bad: bool, containers: list[str]) -> str:
    """Who sets something bad: `pod and containers "a", "b"`; "" for nobody."""
    found = ["pod"] if pod_is_bad else []
    if containers:
        found.append(counted("container", containers))
    return " and ".join(found)


def bad_containers(pod: Pod, is_bad: Callable[[Object], bool]) -> list[str]:
    """Names of the containers whose security context is bad."""
    return [name for name, context in pod.contexts() if is_bad(context)]
