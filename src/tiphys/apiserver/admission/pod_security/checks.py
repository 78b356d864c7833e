"""Which checks make up a standard: the table of them, by level and by the version each holds from.

A later row of the same id replaces an earlier one from its version on. A restricted check replaces the baseline check
it goes beyond, so that nothing is said twice. Within a level, checks run in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from tiphys.apiserver.admission.pod_security import baseline, restricted
from tiphys.apiserver.admission.pod_security.levels import LATEST, Level, Standard
from tiphys.apiserver.admission.pod_security.pod import Pod, Violation

Run = Callable[[Pod], Violation | None]


@dataclass(frozen=True, slots=True)
class Check:
    """One rule, from minor version `since` on. `instead_of`: the baseline check it replaces at its level."""

    id: str
    since: int
    run: Run
    instead_of: str = ""


BASELINE: Final = (
    Check("appArmorProfile", 0, baseline.app_armor),
    Check("capabilities_baseline", 0, baseline.capabilities),
    Check("hostNamespaces", 0, baseline.host_namespaces),
    Check("hostPathVolumes", 0, baseline.host_path_volumes),
    Check("hostPorts", 0, baseline.host_ports),
    Check("hostProbesAndHostLifecycle", 34, baseline.host_probes),
    Check("privileged", 0, baseline.privileged),
    Check("procMount", 0, baseline.proc_mount),
    Check("procMount", 35, baseline.proc_mount_unless_user_namespace),
    Check("seLinuxOptions", 0, baseline.se_linux),
    Check("seLinuxOptions", 31, baseline.se_linux_31),
    Check("seccompProfile_baseline", 0, baseline.seccomp_annotations),
    Check("seccompProfile_baseline", 19, baseline.seccomp),
    Check("sysctls", 0, baseline.sysctls),
    Check("sysctls", 27, baseline.sysctls_27),
    Check("sysctls", 29, baseline.sysctls_29),
    Check("sysctls", 32, baseline.sysctls_32),
    Check("windowsHostProcess", 0, baseline.windows_host_process),
)
RESTRICTED: Final = (
    Check("allowPrivilegeEscalation", 8, restricted.privilege_escalation),
    Check("allowPrivilegeEscalation", 25, restricted.privilege_escalation_25),
    Check("capabilities_restricted", 22, restricted.capabilities, "capabilities_baseline"),
    Check("capabilities_restricted", 25, restricted.capabilities_25, "capabilities_baseline"),
    # Where baseline makes an exception for user namespaces, restricted makes none.
    Check("procMount_restricted", 35, baseline.proc_mount, "procMount"),
    Check("restrictedVolumes", 0, restricted.volumes, "hostPathVolumes"),
    Check("runAsNonRoot", 0, restricted.run_as_non_root),
    Check("runAsNonRoot", 35, restricted.run_as_non_root_35),
    Check("runAsUser", 23, restricted.run_as_user),
    Check("runAsUser", 35, restricted.run_as_user_35),
    Check("seccompProfile_restricted", 19, restricted.seccomp, "seccompProfile_baseline"),
    Check("seccompProfile_restricted", 25, restricted.seccomp_25, "seccompProfile_baseline"),
)
NEWEST: Final = 36  # every check of a later version is one of this


def _as_of(table: tuple[Check, ...], minor: int) -> list[Check]:
    newest: dict[str, Check] = {}
    for check in table:
        if check.since <= minor:
            newest[check.id] = check
    return [newest[name] for name in sorted(newest)]


@lru_cache(maxsize=256)
def _checks(level: Level, minor: int) -> tuple[Check, ...]:
    if level is Level.PRIVILEGED:
        return ()
    found = _as_of(BASELINE, minor)
    if level is Level.RESTRICTED:
        hardening = _as_of(RESTRICTED, minor)
        replaced = {check.instead_of for check in hardening}
        found = [check for check in found if check.id not in replaced] + hardening
    return tuple(found)


def evaluate(standard: Standard, pod: Pod) -> list[Violation]:
    """Everything in which a pod breaks a standard, in a fixed order; empty when it does not."""
    minor = NEWEST if standard.minor == LATEST else min(standard.minor, NEWEST)
    results = (check.run(pod) for check in _checks(standard.level, minor))
    return [violation for violation in results if violation is not None]
