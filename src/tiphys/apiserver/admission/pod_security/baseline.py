"""The baseline standard: known ways out of a container are closed.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#baseline
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tiphys.apiserver.admission.pod_security.pod import Object, Pod, Violation, bad_containers, counted, quoted, setters

DEFAULT_CAPABILITIES: Final = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
SELINUX_TYPES: Final = frozenset({"", "container_t", "container_init_t", "container_kvm_t"})
SELINUX_TYPES_31: Final = SELINUX_TYPES | {"container_engine_t"}
APPARMOR_ANNOTATION: Final = "container.apparmor.security.beta.kubernetes.io/"
SECCOMP_POD_ANNOTATION: Final = "seccomp.security.alpha.kubernetes.io/pod"
SECCOMP_ANNOTATION: Final = "container.seccomp.security.alpha.kubernetes.io/"
SYSCTLS: Final = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
    }
)
SYSCTLS_27: Final = SYSCTLS | {"net.ipv4.ip_local_reserved_ports"}
SYSCTLS_29: Final = SYSCTLS_27 | {
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}
SYSCTLS_32: Final = SYSCTLS_29 | {"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"}


def app_armor(pod: Pod) -> Violation | None:
    """Only the runtime's profile or a local one."""

    def forbidden(context: Object) -> str:
        kind = (context.get("appArmorProfile") or {}).get("type", "")
        return "" if kind in ("", "RuntimeDefault", "Localhost") else kind

    values = {forbidden(pod.security), *(forbidden(context) for _, context in pod.contexts())} - {""}
    details = []
    who = setters(bool(forbidden(pod.security)), bad_containers(pod, lambda context: bool(forbidden(context))))
    if who:
        details.append(f"{who} must not set AppArmor profile type to {quoted(sorted(values))}")
    notes = sorted(
        f'{key}="{value}"'
        for key, value in pod.annotations.items()
        if key.startswith(APPARMOR_ANNOTATION)
        and value not in ("", "runtime/default")
        and not value.startswith("localhost/")
    )
    if notes:
        details.append(f"{'annotation' if len(notes) == 1 else 'annotations'} {', '.join(notes)}")
    if not details:
        return None
    several = len(values) + len(notes) > 1
    return Violation(f"forbidden AppArmor profile{'s' if several else ''}", "; ".join(details))


def capabilities(pod: Pod) -> Violation | None:
    """No capability beyond those a container has anyway."""
    return added_capabilities(pod, DEFAULT_CAPABILITIES, "non-default capabilities")


def added_capabilities(pod: Pod, allowed: frozenset[str], reason: str) -> Violation | None:
    """Capabilities other than `allowed` that are added."""
    bad, found = [], set()
    for name, context in pod.contexts():
        extra = set((context.get("capabilities") or {}).get("add") or ()) - allowed
        if extra:
            bad.append(name)
            found |= extra
    if not bad:
        return None
    what = quoted(sorted(found))
    return Violation(reason, f"{counted('container', bad)} must not include {what} in securityContext.capabilities.add")


def host_namespaces(pod: Pod) -> Violation | None:
    """No namespace of the node."""
    found = [f"{key}=true" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(key)]
    return Violation("host namespaces", ", ".join(found)) if found else None


def host_path_volumes(pod: Pod) -> Violation | None:
    """No directory of the node."""
    names = [volume.get("name", "") for volume in pod.spec.get("volumes") or () if volume.get("hostPath") is not None]
    return Violation("hostPath volumes", counted("volume", names)) if names else None


def host_ports(pod: Pod) -> Violation | None:
    """No port of the node."""
    bad, ports = [], set()
    for container in pod.containers():
        own = {str(port["hostPort"]) for port in container.get("ports") or () if port.get("hostPort")}
        if own:
            bad.append(container.get("name", ""))
            ports |= own
    if not bad:
        return None
    word = "hostPort" if len(ports) == 1 else "hostPorts"
    use = "uses" if len(bad) == 1 else "use"
    return Violation(word, f"{counted('container', bad)} {use} {word} {', '.join(sorted(ports))}")


def host_probes(pod: Pod) -> Violation | None:
    """Probes and hooks ask the pod itself: the node must not be made to send requests elsewhere."""
    bad, hosts = [], set()
    for container in pod.containers():
        own = set(_probed_hosts(container))
        if own:
            bad.append(container.get("name", ""))
            hosts |= own
    if not bad:
        return None
    use = "uses" if len(bad) == 1 else "use"
    word = "probe or lifecycle host" if len(hosts) == 1 else "probe or lifecycle hosts"
    detail = f"{counted('container', sorted(bad))} {use} {word} {quoted(sorted(hosts))}"
    return Violation("probe or lifecycle host", detail)


def _probed_hosts(container: Object) -> Iterator[str]:
    hooks: Object = container.get("lifecycle") or {}
    handlers: list[Any] = [container.get(key) for key in ("livenessProbe", "readinessProbe", "startupProbe")]
    handlers += [hooks.get(key) for key in ("postStart", "preStop")]
    for handler in handlers:
        for key in ("httpGet", "tcpSocket"):
            host = ((handler or {}).get(key) or {}).get("host")
            if host:
                yield host


def privileged(pod: Pod) -> Violation | None:
    """No privileged container."""
    bad = bad_containers(pod, lambda context: bool(context.get("privileged")))
    if not bad:
        return None
    return Violation("privileged", f"{counted('container', bad)} must not set securityContext.privileged=true")


def proc_mount(pod: Pod) -> Violation | None:
    """/proc stays masked."""
    kinds = {context.get("procMount") or "Default" for _, context in pod.contexts()} - {"Default"}
    if not kinds:
        return None
    bad = bad_containers(pod, lambda context: (context.get("procMount") or "Default") != "Default")
    what = quoted(sorted(kinds))
    return Violation("procMount", f"{counted('container', bad)} must not set securityContext.procMount to {what}")


def proc_mount_unless_user_namespace(pod: Pod) -> Violation | None:
    """As before, but for pods whose root is nobody on the node."""
    return None if pod.has_user_namespace else proc_mount(pod)


def se_linux(pod: Pod, allowed: frozenset[str] = SELINUX_TYPES) -> Violation | None:
    """No user and no role, and only the usual types."""

    def is_bad(context: Object) -> bool:
        options = context.get("seLinuxOptions") or {}
        return bool(options.get("type", "") not in allowed or options.get("user") or options.get("role"))

    who = setters(is_bad(pod.security), bad_containers(pod, is_bad))
    if not who:
        return None
    every = [pod.security.get("seLinuxOptions") or {}, *(c.get("seLinuxOptions") or {} for _, c in pod.contexts())]
    types = sorted({options.get("type", "") for options in every} - allowed)
    details = [counted("type", types)] if types else []
    details += [f"{key} may not be set" for key in ("user", "role") if any(options.get(key) for options in every)]
    return Violation("seLinuxOptions", f"{who} set forbidden securityContext.seLinuxOptions: {'; '.join(details)}")


def se_linux_31(pod: Pod) -> Violation | None:
    """Since v1.31 container engines have a type of their own."""
    return se_linux(pod, SELINUX_TYPES_31)


def seccomp_annotations(pod: Pod) -> Violation | None:
    """Before v1.19 profiles were annotations."""
    bad = sorted(
        f'{key}="{value}"'
        for key, value in pod.annotations.items()
        if (key == SECCOMP_POD_ANNOTATION or key.startswith(SECCOMP_ANNOTATION))
        and value not in ("", "runtime/default", "docker/default")
        and not value.startswith("localhost/")
    )
    if not bad:
        return None
    word = "annotation" if len(bad) == 1 else "annotations"
    return Violation("seccompProfile", f"forbidden {word} {', '.join(bad)}")


def seccomp(pod: Pod) -> Violation | None:
    """System calls are not left unfiltered."""
    return unconfined_seccomp(pod)


def unconfined_seccomp(pod: Pod) -> Violation | None:
    """Profiles that are set, and are neither the runtime's nor a local one."""

    def forbidden(context: Object) -> str:
        kind = (context.get("seccompProfile") or {}).get("type", "")
        return "" if kind in ("", "RuntimeDefault", "Localhost") else kind

    who = setters(bool(forbidden(pod.security)), bad_containers(pod, lambda context: bool(forbidden(context))))
    if not who:
        return None
    values = {forbidden(pod.security), *(forbidden(context) for _, context in pod.contexts())} - {""}
    what = quoted(sorted(values))
    return Violation("seccompProfile", f"{who} must not set securityContext.seccompProfile.type to {what}")


def sysctls(pod: Pod, allowed: frozenset[str] = SYSCTLS) -> Violation | None:
    """Only settings that are the pod's own."""
    names = [item.get("name", "") for item in pod.security.get("sysctls") or ()]
    bad = [name for name in names if name not in allowed]
    return Violation("forbidden sysctls", ", ".join(bad)) if bad else None


def sysctls_27(pod: Pod) -> Violation | None:
    """The safe ones of v1.27."""
    return sysctls(pod, SYSCTLS_27)


def sysctls_29(pod: Pod) -> Violation | None:
    """The safe ones of v1.29."""
    return sysctls(pod, SYSCTLS_29)


def sysctls_32(pod: Pod) -> Violation | None:
    """The safe ones of v1.32."""
    return sysctls(pod, SYSCTLS_32)


def windows_host_process(pod: Pod) -> Violation | None:
    """No process of the Windows node itself."""

    def is_bad(context: Object) -> bool:
        return bool((context.get("windowsOptions") or {}).get("hostProcess"))

    who = setters(is_bad(pod.security), bad_containers(pod, is_bad))
    if not who:
        return None
    return Violation("hostProcess", f"{who} must not set securityContext.windowsOptions.hostProcess=true")
