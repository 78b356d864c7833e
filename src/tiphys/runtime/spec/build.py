"""`build`: one container's config.json.

Order of the story: the process (who, what, where, with which rights), the mounts, the namespaces it joins, the
limits it keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tiphys.api.cri import api_pb2
from tiphys.runtime.images.config import ImageConfig
from tiphys.runtime.spec import capabilities, cdi, devices, seccomp
from tiphys.runtime.spec.mounts import rootfs_propagation
from tiphys.runtime.spec.resources import ALL_DEVICES, NO_DEVICES, oci_resources
from tiphys.runtime.spec.users import User
from tiphys.runtime.usernamespaces import UserMapping

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OCI_VERSION: Final = "1.0.2"


class SpecError(Exception):
    """The request cannot be made into a container; the text goes to the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this machine can give."""

    capabilities: frozenset[str]
    unified_cgroups: bool
    swap_accounting: bool
    # A process may not have a lower oom_score_adj than this (our own, without CAP_SYS_RESOURCE).
    least_oom_score_adj: int
    seccomp_profiles: Path
    cdi_directories: Sequence[Path] = ()
    apparmor: bool = False
    no_user_namespaces: str = ""  # why pods cannot have users of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecRequest:
    """Everything `build` needs about one container."""

    container_id: str
    config: api_pb2.ContainerConfig
    sandbox_id: str
    sandbox: api_pb2.PodSandboxConfig
    image: ImageConfig
    user: User
    hostname: str
    rootfs: Path
    # Namespace kind of the OCI specification to the path to join; "" makes a new one, absent uses the node's.
    namespaces: Mapping[str, str]
    mounts: Sequence[Mapping[str, Any]]
    cgroup: str
    machine: Machine
    extra_sysctls: Mapping[str, str] = field(default_factory=dict)
    users: UserMapping | None = None  # of the user namespace it joins


def build(request: SpecRequest) -> dict[str, Any]:
    """The OCI specification. Raises SpecError for what this machine or the request cannot do."""
    security = request.config.linux.security_context
    try:
        caps, _ = granted_capabilities(request.config, request.machine)
    except ValueError as error:
        raise SpecError(str(error)) from error
    spec = {
        "ociVersion": OCI_VERSION,
        "process": process(request, caps),
        "root": {"path": str(request.rootfs), "readonly": security.readonly_rootfs},
        "mounts": list(request.mounts),
        "linux": _linux(request, caps),
        "annotations": {
            **request.config.annotations,
            "io.kubernetes.cri.sandbox-id": request.sandbox_id,
            "io.kubernetes.cri.container-name": request.config.metadata.name,
        },
    }
    try:
        asked = (device.name for device in request.config.CDI_devices)
        cdi.inject(spec, cdi.named(asked, request.config.annotations), request.machine.cdi_directories)
    except cdi.CDIError as error:
        raise SpecError(f"CDI device injection failed: {error}") from error
    return spec


def granted_capabilities(config: api_pb2.ContainerConfig, machine: Machine) -> tuple[list[str], list[str]]:
    """Capabilities the container gets, and those it asked for in vain. ValueError for an unknown name."""
    security = config.linux.security_context
    return capabilities.effective(
        add=security.capabilities.add_capabilities,
        drop=security.capabilities.drop_capabilities,
        privileged=security.privileged,
        available=machine.capabilities,
    )


def command_line(config: api_pb2.ContainerConfig, image: ImageConfig) -> list[str]:
    """`command` replaces the image's entrypoint and, unless `args` are given, its command too."""
    if config.command:
        return [*config.command, *config.args]
    argv = [*image.entrypoint, *(config.args or image.cmd)]
    if not argv:
        raise SpecError("no command specified")
    return argv


def environment(config: api_pb2.ContainerConfig, image: ImageConfig, *, hostname: str, home: str) -> list[str]:
    """The image's environment under CRI's, with PATH, HOSTNAME, HOME and (on a terminal) TERM where unset."""
    values: dict[str, str] = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if config.tty:
        values["TERM"] = "xterm"
    for entry in image.env:
        name, _, value = entry.partition("=")
        values[name] = value
    for variable in config.envs:
        # CRI carries bytes; the OCI specification is JSON and has text only.
        values[variable.key] = variable.value.decode("utf-8", "replace")
    values.setdefault("HOME", home)
    return [f"{name}={value}" for name, value in values.items()]


def process(request: SpecRequest, caps: list[str]) -> dict[str, Any]:
    """The `process` object; `exec` uses it too, with other arguments."""
    config, user = request.config, request.user
    security = config.linux.security_context
    ambient = [
        name for name in map(capabilities.normalise, security.capabilities.add_ambient_capabilities) if name in caps
    ]
    result: dict[str, Any] = {
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": command_line(config, request.image),
        "env": environment(config, request.image, hostname=request.hostname, home=user.home),
        "cwd": config.working_dir or request.image.working_dir or "/",
        "capabilities": {
            "bounding": caps,
            "effective": caps,
            "permitted": caps,
            **({"inheritable": ambient, "ambient": ambient} if ambient else {}),
        },
        "noNewPrivileges": security.no_new_privs,
        "oomScoreAdj": max(config.linux.resources.oom_score_adj, request.machine.least_oom_score_adj),
    }
    profile = _apparmor(security, request.machine)
    if profile:
        result["apparmorProfile"] = profile
    return result


def _apparmor(security: api_pb2.LinuxContainerSecurityContext, machine: Machine) -> str:
    kind = api_pb2.SecurityProfile
    if security.apparmor.profile_type == kind.Localhost and security.HasField("apparmor"):
        if not machine.apparmor:
            raise SpecError("apparmor is not supported on this node")
        return security.apparmor.localhost_ref
    return ""


def _linux(request: SpecRequest, caps: list[str]) -> dict[str, Any]:
    config, machine = request.config, request.machine
    security = config.linux.security_context
    resources = oci_resources(
        config.linux.resources, unified=machine.unified_cgroups, swap_accounting=machine.swap_accounting
    )
    try:
        nodes, rules = devices.requested(config.devices)
    except (OSError, ValueError) as error:
        raise SpecError(f"failed to set devices mapping: {error}") from error
    if security.privileged:
        nodes = [*devices.of_machine(), *nodes]
        resources["devices"] = [ALL_DEVICES]
    else:
        resources["devices"] = [NO_DEVICES, *rules]
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind, **({"path": path} if path else {})} for kind, path in request.namespaces.items()],
        "cgroupsPath": request.cgroup,
        "resources": resources,
        "maskedPaths": [] if security.privileged else list(security.masked_paths),
        "readonlyPaths": [] if security.privileged else list(security.readonly_paths),
    }
    if request.users is not None:
        linux |= request.users.oci()
    if nodes:
        linux["devices"] = nodes
    if request.extra_sysctls:
        linux["sysctl"] = dict(request.extra_sysctls)
    propagation = rootfs_propagation(config.mounts)
    if propagation:
        linux["rootfsPropagation"] = propagation
    filter_ = _seccomp(security, caps, machine)
    if filter_:
        linux["seccomp"] = filter_
    return linux


def _seccomp(
    security: api_pb2.LinuxContainerSecurityContext, caps: list[str], machine: Machine
) -> dict[str, Any] | None:
    kind = api_pb2.SecurityProfile
    if security.privileged or not security.HasField("seccomp"):
        return None
    if security.seccomp.profile_type == kind.RuntimeDefault:
        return seccomp.default_profile(caps)
    if security.seccomp.profile_type == kind.Localhost:
        try:
            return seccomp.local_profile(machine.seccomp_profiles, security.seccomp.localhost_ref, caps)
        except (OSError, ValueError) as error:
            raise SpecError(f"failed to generate seccomp spec opts: {error}") from error
    return None
