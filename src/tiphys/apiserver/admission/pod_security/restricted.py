"""The restricted standard: pods are hardened, and say so.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

from typing import Final

from tiphys.apiserver.admission.pod_security.baseline import added_capabilities, unconfined_seccomp
from tiphys.apiserver.admission.pod_security.pod import Object, Pod, Violation, bad_containers, counted, quoted, setters

VOLUMES: Final = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)


def privilege_escalation(pod: Pod) -> Violation | None:
    """No process gains more rights than its parent had."""
    bad = bad_containers(pod, lambda context: context.get("allowPrivilegeEscalation") is not False)
    if not bad:
        return None
    detail = f"{counted('container', bad)} must set securityContext.allowPrivilegeEscalation=false"
    return Violation("allowPrivilegeEscalation != false", detail)


def privilege_escalation_25(pod: Pod) -> Violation | None:
    """Since v1.25 not for Windows, which has no such thing."""
    return None if pod.is_windows else privilege_escalation(pod)


def capabilities(pod: Pod) -> Violation | None:
    """Every capability is dropped; the one to bind low ports may be added."""

    def keeps(context: Object) -> bool:
        return "ALL" not in ((context.get("capabilities") or {}).get("drop") or ())

    keeping = bad_containers(pod, keeps)
    details = []
    if keeping:
        details.append(f'{counted("container", keeping)} must set securityContext.capabilities.drop=["ALL"]')
    added = added_capabilities(pod, frozenset({"NET_BIND_SERVICE"}), "")
    if added is not None:
        details.append(added.detail)
    return Violation("unrestricted capabilities", "; ".join(details)) if details else None


def capabilities_25(pod: Pod) -> Violation | None:
    """Since v1.25 not for Windows."""
    return None if pod.is_windows else capabilities(pod)


def volumes(pod: Pod) -> Violation | None:
    """Only volumes that bring nothing of the node and nothing of a server along."""
    names, types = [], set()
    for volume in pod.spec.get("volumes") or ():
        kinds = [key for key, value in volume.items() if key != "name" and value is not None]
        bad = [kind for kind in kinds if kind not in VOLUMES]
        if bad:
            names.append(volume.get("name", ""))
            types.add(bad[0])
    if not names:
        return None
    use = "uses" if len(names) == 1 else "use"
    word = "restricted volume type" if len(types) == 1 else "restricted volume types"
    return Violation("restricted volume types", f"{counted('volume', names)} {use} {word} {quoted(sorted(types))}")


def run_as_non_root(pod: Pod) -> Violation | None:
    """Containers do not run as root, and the pod says so."""
    pod_says = pod.security.get("runAsNonRoot")
    who = setters(pod_says is False, bad_containers(pod, lambda context: context.get("runAsNonRoot") is False))
    if who:
        return Violation("runAsNonRoot != true", f"{who} must not set securityContext.runAsNonRoot=false")
    silent = bad_containers(pod, lambda context: context.get("runAsNonRoot") is None)
    if pod_says or not silent:
        return None
    detail = f"pod or {counted('container', silent)} must set securityContext.runAsNonRoot=true"
    return Violation("runAsNonRoot != true", detail)


def run_as_non_root_35(pod: Pod) -> Violation | None:
    """Since v1.35 root may be used where it is nobody on the node."""
    return None if pod.has_user_namespace else run_as_non_root(pod)


def run_as_user(pod: Pod) -> Violation | None:
    """Nobody asks for user 0."""

    def is_root(context: Object) -> bool:
        return context.get("runAsUser") == 0

    who = setters(is_root(pod.security), bad_containers(pod, is_root))
    return Violation("runAsUser=0", f"{who} must not set runAsUser=0") if who else None


def run_as_user_35(pod: Pod) -> Violation | None:
    """Since v1.35 root may be used where it is nobody on the node."""
    return None if pod.has_user_namespace else run_as_user(pod)


def seccomp(pod: Pod) -> Violation | None:
    """A profile filters system calls, and the pod says which."""
    explicit = unconfined_seccomp(pod)
    if explicit is not None:
        return explicit
    silent = bad_containers(pod, lambda context: not (context.get("seccompProfile") or {}).get("type"))
    if (pod.security.get("seccompProfile") or {}).get("type") or not silent:
        return None
    detail = (
        f"pod or {counted('container', silent)} must set securityContext.seccompProfile.type to "
        '"RuntimeDefault" or "Localhost"'
    )
    return Violation("seccompProfile", detail)


def seccomp_25(pod: Pod) -> Violation | None:
    """Since v1.25 not for Windows."""
    return None if pod.is_windows else seccomp(pod)
