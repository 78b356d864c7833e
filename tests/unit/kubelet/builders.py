"""Builders for pods and their runtime state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod, RuntimeSandbox, State, newest_first
from tiphys.kubelet.pod import PodUID, container_hash, container_named

START = datetime(2024, 1, 1, tzinfo=UTC)


def make_pod(*containers: dict[str, Any] | str, init: tuple[dict[str, Any] | str, ...] = (), **spec: Any) -> Pod:
    """A pod of these containers; a string is a container of this name."""
    status = spec.pop("status", {})
    metadata = {"name": "web", "namespace": "default", "uid": "u1", "generation": 1, **spec.pop("metadata", {})}

    def full(container: dict[str, Any] | str) -> dict[str, Any]:
        given = {"name": container} if isinstance(container, str) else container
        return {"image": "busybox:1", "terminationMessagePath": "/dev/termination-log", **given}

    document = {
        "metadata": metadata,
        "spec": {
            "nodeName": "node-1",
            "containers": [full(container) for container in containers or ("app",)],
            "initContainers": [full(container) for container in init],
            **spec,
        },
        "status": status,
    }
    return msgspec.convert(document, Pod)


def make_runtime(
    pod: Pod, *containers: RuntimeContainer, ready: bool = True, attempt: int = 0, ips: tuple[str, ...] = ("10.0.0.1",)
) -> RuntimePod:
    """The runtime's view of a pod with one sandbox."""
    sandbox = RuntimeSandbox(id="s1", attempt=attempt, ready=ready, created_at=START, ips=ips if ready else ())
    return RuntimePod(uid=PodUID("u1"), sandboxes=(sandbox,), containers=newest_first(containers))


def container(pod: Pod, name: str, state: str = "running", exit_code: int = 0, **more: Any) -> RuntimeContainer:
    """One container of the pod in this state, started a second after the sandbox."""
    spec = container_named(pod, name)
    age = more.pop("age", 1)
    values: dict[str, Any] = {
        "id": f"c-{name}-{more.get('restart_count', 0)}",
        "name": name,
        "state": State(state),
        "created_at": START + timedelta(seconds=age),
        "started_at": START + timedelta(seconds=age),
        "finished_at": START + timedelta(seconds=age + 1) if state == "exited" else None,
        "exit_code": exit_code,
        "hash": container_hash(spec) if spec else "",
        **more,
    }
    return RuntimeContainer(**values)
