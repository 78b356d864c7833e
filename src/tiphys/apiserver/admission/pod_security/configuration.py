"""PodSecurityConfiguration: what holds where a namespace says nothing, and whom nothing is asked of.

https://kubernetes.io/docs/tasks/configure-pod-container/enforce-standards-admission-controller/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.apiserver.admission.configuration import check_document
from tiphys.apiserver.admission.pod_security.levels import PREFIX, policy_of
from tiphys.apiserver.configfile import ConfigError, joined

VERSIONS: Final = tuple(f"pod-security.admission.config.k8s.io/{one}" for one in ("v1", "v1beta1", "v1alpha1"))
MODES: Final = ("enforce", "enforce-version", "audit", "audit-version", "warn", "warn-version")


@dataclass(frozen=True, slots=True)
class Configuration:
    """`defaults` are labels; the rest are names of who and what is exempt."""

    defaults: Mapping[str, str] = field(default_factory=dict)
    users: frozenset[str] = frozenset()
    runtime_classes: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()

    def exempts(self, user: str, namespace: str, runtime_class: str) -> str:
        """Why something is exempt, as audit notes it; "" when it is not."""
        if namespace in self.namespaces:
            return "namespace"
        if user in self.users:
            return "user"
        return "runtimeClass" if runtime_class and runtime_class in self.runtime_classes else ""


def configuration_of(found: Mapping[str, Any] | None) -> Configuration:
    """Of a document; None is the configuration that says nothing. Raises ConfigError."""
    if found is None:
        return Configuration()
    check_document("PodSecurity", found, "PodSecurityConfiguration", VERSIONS)
    given = found.get("defaults") or {}
    defaults = {PREFIX + mode: str(given[mode]) for mode in MODES if given.get(mode)}
    errors = policy_of(defaults).errors
    if errors:
        raise ConfigError(f'couldn\'t init admission plugin "PodSecurity": {joined(errors)}')
    exempt = found.get("exemptions") or {}
    users, classes, namespaces = (
        frozenset(exempt.get(key) or ()) for key in ("usernames", "runtimeClasses", "namespaces")
    )
    return Configuration(defaults, users, classes, namespaces)
