"""Makes a pod's sandbox: its cgroup, its directories, and the call to the runtime."""

from __future__ import annotations

import asyncio

from tiphys.api.core.v1 import Pod
from tiphys.api.cri import api_pb2 as cri
from tiphys.api.node.v1 import RuntimeClass
from tiphys.kubelet.containers.dns import missing_cluster_dns, pod_resolver
from tiphys.kubelet.containers.hosts import kernel_hostname
from tiphys.kubelet.containers.sandbox import sandbox_config
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.dra.manager import PrepareError
from tiphys.kubelet.pod import describe, uid_of
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.pods.starts import count_failed_start, count_start
from tiphys.kubelet.usernamespaces import IDs, RangesExhaustedError
from tiphys.machinery.errors import StatusError
from tiphys.machinery.meta import ObjectName


class SandboxError(Exception):
    """The sandbox could not be made; it is tried again."""


def sandbox_config_of(services: PodServices, pod: Pod, attempt: int, users: IDs | None = None) -> cri.PodSandboxConfig:
    """What the runtime is told of the pod's sandbox. Raises SandboxError when the spec cannot be met.

    `users`: who the pod's users are on the node, where it has its own.
    """
    config = services.config
    resolver = pod_resolver(pod, services.node.resolver, tuple(config.cluster_dns), config.cluster_domain)
    for problem in resolver.problems:
        services.event(pod, "Warning", "DNSConfigForming", problem)
    if missing_cluster_dns(pod, tuple(config.cluster_dns)):
        services.event(
            pod,
            "Warning",
            "MissingClusterDNS",
            f'pod: "{describe(pod)}". kubelet does not have ClusterDNS IP configured and cannot create Pod using '
            '"ClusterFirst" policy. Falling back to "Default" policy.',
        )
    try:
        hostname = kernel_hostname(pod, config.cluster_domain)
    except ValueError as error:
        services.event(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
        raise SandboxError(str(error)) from error
    return sandbox_config(
        pod,
        attempt=attempt,
        hostname=hostname,
        resolver=resolver,
        log_directory=str(services.paths.pod_logs(pod)),
        cgroup_parent=services.cgroups.path_of(pod),
        users=users,
    )


async def make_sandbox(services: PodServices, pod: Pod, attempt: int) -> tuple[cri.PodSandboxConfig, str]:
    """Make the `attempt`-th sandbox; returns its description and its id. Raises SandboxError, OSError."""
    count_start(pod)
    await _prepare_claims(services, pod)
    await asyncio.to_thread(_prepare, services, pod)
    try:
        handler = await _handler(services, pod)
        await _check_user_namespace(services, pod, handler)
        config = sandbox_config_of(services, pod, attempt, await users_of(services, pod))
        sandbox_id = await services.runtime.run_sandbox(config, handler)
    except (CRIError, StatusError, UserNamespaceError, RangesExhaustedError) as error:
        count_failed_start(pod)
        services.event(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
        raise SandboxError(f"failed to create its sandbox: {error}") from error
    return config, sandbox_id


async def _prepare_claims(services: PodServices, pod: Pod) -> None:
    if not pod.spec.resource_claims and pod.status.extended_resource_claim_status is None:
        return
    try:
        await services.claims.prepare(pod)
    except PrepareError as error:
        message = f"Failed to prepare dynamic resources: {error}"
        services.event(pod, "Warning", "FailedPrepareDynamicResources", message)
        raise SandboxError(message) from error


class UserNamespaceError(Exception):
    """The pod asks for users of its own, and the runtime cannot give it any."""


async def users_of(services: PodServices, pod: Pod) -> IDs | None:
    """Who the users of the pod are on the node, from now on; None: who they are there.

    Raises RangesExhaustedError, OSError.
    """
    if pod.spec.host_users is not False:
        return None
    return await asyncio.to_thread(services.users.assign, uid_of(pod))


async def _check_user_namespace(services: PodServices, pod: Pod, handler: str) -> None:
    """A pod that is not to share the node's users must not run with them. Raises UserNamespaceError, CRIError."""
    if pod.spec.host_users is not False:
        return
    handlers = (await services.runtime.status()).runtime_handlers
    if any(found.name == handler and found.features.user_namespaces for found in handlers):
        return
    of = f'RuntimeClass handler "{handler}"' if handler else "runtime"
    raise UserNamespaceError(f"can't set `spec.hostUsers: false`, {of} does not support user namespaces")


async def _handler(services: PodServices, pod: Pod) -> str:
    """The runtime handler of the pod's RuntimeClass; "" is the runtime's default. Raises StatusError."""
    if not pod.spec.runtime_class_name:
        return ""
    return (await services.client.get(RuntimeClass, ObjectName("", pod.spec.runtime_class_name))).handler


def _prepare(services: PodServices, pod: Pod) -> None:
    services.cgroups.create_pod(pod)
    services.paths.pod(uid_of(pod)).mkdir(mode=0o750, parents=True, exist_ok=True)
    services.paths.pod_logs(pod).mkdir(mode=0o755, parents=True, exist_ok=True)
