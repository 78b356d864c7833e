"""Sandboxes and containers in the wire form of CRI, and the filters of its lists."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tiphys.api.cri import api_pb2
from tiphys.runtime.container import STATES, Container
from tiphys.runtime.sandboxes import Sandbox
from tiphys.runtime.signals import to_cri


def sandbox_state(sandbox: Sandbox) -> api_pb2.PodSandboxState:
    """READY only while all of the sandbox is in place."""
    return api_pb2.SANDBOX_READY if sandbox.record.state == "ready" else api_pb2.SANDBOX_NOTREADY


def sandbox_item(sandbox: Sandbox) -> api_pb2.PodSandbox:
    """An entry of ListPodSandbox."""
    return api_pb2.PodSandbox(
        id=sandbox.id,
        metadata=sandbox.config.metadata,
        state=sandbox_state(sandbox),
        created_at=sandbox.record.created_at,
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
        runtime_handler=sandbox.record.runtime_handler,
    )


def sandbox_status(sandbox: Sandbox) -> api_pb2.PodSandboxStatus:
    """The status; addresses are the pod's own only (a pod on the node's network has none)."""
    status = api_pb2.PodSandboxStatus(
        id=sandbox.id,
        metadata=sandbox.config.metadata,
        state=sandbox_state(sandbox),
        created_at=sandbox.record.created_at,
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
        runtime_handler=sandbox.record.runtime_handler,
    )
    status.linux.namespaces.options.CopyFrom(sandbox.modes)
    ips = sandbox.record.ips
    status.network.ip = ips[0] if ips else ""
    status.network.additional_ips.extend(api_pb2.PodIP(ip=ip) for ip in ips[1:])
    return status


def sandbox_info(sandbox: Sandbox) -> dict[str, str]:
    """What `crictl inspectp` shows beyond the status."""
    return {"info": json.dumps({"netns": sandbox.record.netns, "pause": sandbox.record.pause})}


def container_item(container: Container) -> api_pb2.Container:
    """An entry of ListContainers."""
    record = container.record
    return api_pb2.Container(
        id=record.id,
        pod_sandbox_id=record.sandbox_id,
        metadata=container.config.metadata,
        image=container.config.image,
        image_ref=record.image_id,
        image_id=record.image_id,
        state=STATES[record.state],
        created_at=record.created_at,
        labels=container.config.labels,
        annotations=container.config.annotations,
    )


def container_status(container: Container) -> api_pb2.ContainerStatus:
    """The status. `image_ref` is the image by digest where it came from a registry, as `imageID` of a pod shows it."""
    record, config = container.record, container.config
    image = api_pb2.ImageSpec()
    image.CopyFrom(config.image)
    if config.image.user_specified_image:
        image.image = config.image.user_specified_image
    status = api_pb2.ContainerStatus(
        id=record.id,
        metadata=config.metadata,
        state=STATES[record.state],
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        exit_code=record.exit_code,
        image=image,
        image_ref=record.image_ref,
        image_id=record.image_id,
        reason=record.reason,
        message=record.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=record.log_path,
        stop_signal=to_cri(record.stop_signal),
    )
    status.resources.linux.ParseFromString(record.resources)
    user = status.user.linux
    user.uid, user.gid = record.uid, record.gid
    user.supplemental_groups.extend(record.groups)
    return status


def container_info(container: Container) -> dict[str, str]:
    """What `crictl inspect` shows beyond the status."""
    record = container.record
    info = {"sandboxID": record.sandbox_id, "pid": record.pid if container.running else 0, "cgroup": record.cgroup}
    return {"info": json.dumps(info)}


def labels_match(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every pair of the selector is among the labels."""
    return all(labels.get(key) == value for key, value in selector.items())


def sandbox_matches(wanted: api_pb2.PodSandboxFilter, sandbox: Sandbox) -> bool:
    """Whether the sandbox passes the filter of ListPodSandbox."""
    if wanted.id and not sandbox.id.startswith(wanted.id):
        return False
    if wanted.HasField("state") and sandbox_state(sandbox) != wanted.state.state:
        return False
    return labels_match(wanted.label_selector, sandbox.config.labels)


def container_matches(wanted: api_pb2.ContainerFilter, container: Container) -> bool:
    """Whether the container passes the filter of ListContainers."""
    if wanted.id and not container.id.startswith(wanted.id):
        return False
    if wanted.pod_sandbox_id and not container.record.sandbox_id.startswith(wanted.pod_sandbox_id):
        return False
    if wanted.HasField("state") and STATES[container.record.state] != wanted.state.state:
        return False
    return labels_match(wanted.label_selector, container.config.labels)
