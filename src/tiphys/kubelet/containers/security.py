"""A container's identity and confinement, from its own and its pod's security context.

https://kubernetes.io/docs/tasks/configure-pod-container/security-context/: what the container says
wins over what the pod says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from tiphys.api.core.v1 import AppArmorProfile, Pod, SeccompProfile, SecurityContext
from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.containers.errors import ConfigError
from tiphys.kubelet.pod import AnyContainer, describe
from tiphys.kubelet.usernamespaces import IDs

T = TypeVar("T")

# What of /proc and /sys a container under procMount Default must not see or change.
MASKED_PATHS: Final = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def namespace_options(pod: Pod, target_id: str = "", users: IDs | None = None) -> cri.NamespaceOption:
    """Which namespaces a container shares; `target_id` is the container an ephemeral one looks into.

    `users`: who the pod's users are on the node, where it has its own.
    """
    pid = cri.CONTAINER
    if pod.spec.host_pid:
        pid = cri.NODE
    elif pod.spec.share_process_namespace:
        pid = cri.POD
    elif target_id:
        pid = cri.TARGET
    return cri.NamespaceOption(
        network=cri.NODE if pod.spec.host_network else cri.POD,
        ipc=cri.NODE if pod.spec.host_ipc else cri.POD,
        pid=pid,
        target_id=target_id if pid == cri.TARGET else "",
        userns_options=users.options() if users is not None else None,
    )


def container_security(
    pod: Pod,
    container: AnyContainer,
    image: cri.Image,
    *,
    extra_groups: Sequence[int] = (),
    target_id: str = "",
    users: IDs | None = None,
) -> cri.LinuxContainerSecurityContext:
    """The CRI security context. Raises ConfigError when runAsNonRoot cannot be kept."""
    own = container.security_context or SecurityContext()
    shared = pod.spec.security_context
    privileged = bool(own.privileged)
    context = cri.LinuxContainerSecurityContext(
        privileged=privileged,
        readonly_rootfs=bool(own.read_only_root_filesystem),
        namespace_options=namespace_options(pod, target_id, users),
        no_new_privs=own.allow_privilege_escalation is False and not privileged,
        supplemental_groups=_groups(pod, extra_groups),
        seccomp=_seccomp(_first(own.seccomp_profile, shared.seccomp_profile if shared else None), privileged),
        apparmor=_apparmor(_first(own.app_armor_profile, shared.app_armor_profile if shared else None), privileged),
        supplemental_groups_policy=_groups_policy(pod),
    )
    if own.capabilities is not None:
        context.capabilities.add_capabilities.extend(own.capabilities.add)
        context.capabilities.drop_capabilities.extend(own.capabilities.drop)
    if not privileged and (own.proc_mount or "Default") == "Default":
        context.masked_paths.extend(MASKED_PATHS)
        context.readonly_paths.extend(READONLY_PATHS)
    selinux = _first(own.se_linux_options, shared.se_linux_options if shared else None)
    if selinux is not None:
        context.selinux_options.CopyFrom(
            cri.SELinuxOption(user=selinux.user, role=selinux.role, type=selinux.type, level=selinux.level)
        )
    _set_user(pod, container, own, image, context)
    return context


def sandbox_security(pod: Pod, users: IDs | None = None) -> cri.LinuxSandboxSecurityContext:
    """The security context of the pod's sandbox."""
    shared = pod.spec.security_context
    containers = (*pod.spec.init_containers, *pod.spec.containers)
    context = cri.LinuxSandboxSecurityContext(
        namespace_options=namespace_options(pod, users=users),
        supplemental_groups=_groups(pod, ()),
        privileged=any(c.security_context is not None and bool(c.security_context.privileged) for c in containers),
        seccomp=cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault),
        supplemental_groups_policy=_groups_policy(pod),
    )
    if shared is not None and shared.run_as_user is not None:
        context.run_as_user.value = shared.run_as_user
    if shared is not None and shared.run_as_group is not None:
        context.run_as_group.value = shared.run_as_group
    return context


def _set_user(
    pod: Pod,
    container: AnyContainer,
    own: SecurityContext,
    image: cri.Image,
    context: cri.LinuxContainerSecurityContext,
) -> None:
    shared = pod.spec.security_context
    user = _first(own.run_as_user, shared.run_as_user if shared else None)
    group = _first(own.run_as_group, shared.run_as_group if shared else None)
    image_uid = image.uid.value if image.HasField("uid") else None
    if _first(own.run_as_non_root, shared.run_as_non_root if shared else None):
        _check_non_root(pod, container, user, image_uid, image.username)
    if user is not None:
        context.run_as_user.value = user
    elif image_uid is not None:
        context.run_as_user.value = image_uid
    elif image.username:
        context.run_as_username = image.username
    if group is not None:
        context.run_as_group.value = group
        if user is None and image_uid is None and not image.username:
            # CRI gives a group only together with a user.
            context.run_as_user.value = 0


def _check_non_root(pod: Pod, container: AnyContainer, user: int | None, image_uid: int | None, username: str) -> None:
    where = f'(pod: "{describe(pod)}", container: {container.name})'
    if user is not None:
        if user == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy {where}")
        return
    if image_uid == 0 or (image_uid is None and not username):
        raise ConfigError(f"container has runAsNonRoot and image will run as root {where}")
    if image_uid is None:
        raise ConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({username}), "
            f"cannot verify user is non-root {where}"
        )


def _groups(pod: Pod, extra: Sequence[int]) -> list[int]:
    shared = pod.spec.security_context
    groups = list(shared.supplemental_groups) if shared else []
    if shared is not None and shared.fs_group is not None:
        groups.append(shared.fs_group)
    return [*groups, *(group for group in extra if group not in groups)]


def _groups_policy(pod: Pod) -> cri.SupplementalGroupsPolicy:
    shared = pod.spec.security_context
    strict = shared is not None and shared.supplemental_groups_policy == "Strict"
    return cri.Strict if strict else cri.Merge


def _seccomp(profile: SeccompProfile | None, privileged: bool) -> cri.SecurityProfile:
    if profile is None or privileged:
        return cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined)
    return _profile(profile.type, profile.localhost_profile)


def _apparmor(profile: AppArmorProfile | None, privileged: bool) -> cri.SecurityProfile | None:
    if profile is None:
        return None
    if privileged:
        return cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined)
    return _profile(profile.type, profile.localhost_profile)


def _profile(kind: str, localhost: str | None) -> cri.SecurityProfile:
    match kind:
        case "RuntimeDefault":
            return cri.SecurityProfile(profile_type=cri.SecurityProfile.RuntimeDefault)
        case "Localhost":
            return cri.SecurityProfile(profile_type=cri.SecurityProfile.Localhost, localhost_ref=localhost or "")
    return cri.SecurityProfile(profile_type=cri.SecurityProfile.Unconfined)


def _first(own: T | None, shared: T | None) -> T | None:
    return own if own is not None else shared
