"""The labels and annotations that a kubelet puts on sandboxes and containers.

They are all that a kubelet needs to find its containers again after a restart, under the names
every Kubernetes tool expects on a node (`crictl`, log collectors).
"""

from __future__ import annotations

from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.pod import AnyContainer, container_hash, grace_period

POD_NAME: Final = "io.kubernetes.pod.name"
POD_NAMESPACE: Final = "io.kubernetes.pod.namespace"
POD_UID: Final = "io.kubernetes.pod.uid"
CONTAINER_NAME: Final = "io.kubernetes.container.name"

CONTAINER_HASH: Final = "io.kubernetes.container.hash"
RESTART_COUNT: Final = "io.kubernetes.container.restartCount"
TERMINATION_MESSAGE_PATH: Final = "io.kubernetes.container.terminationMessagePath"
TERMINATION_MESSAGE_POLICY: Final = "io.kubernetes.container.terminationMessagePolicy"
POD_GRACE_PERIOD: Final = "io.kubernetes.pod.terminationGracePeriod"
# The file on the node behind the termination message, so that it is found without the pod's spec.
TERMINATION_MESSAGE_FILE: Final = "io.tiphys.container.terminationMessageFile"


def pod_labels(pod: Pod) -> dict[str, str]:
    """Labels of a sandbox: the pod's own, and who it is."""
    return {
        **pod.metadata.labels,
        POD_NAME: pod.metadata.name,
        POD_NAMESPACE: pod.metadata.namespace,
        POD_UID: pod.metadata.uid,
    }


def container_labels(pod: Pod, container: AnyContainer) -> dict[str, str]:
    return {
        CONTAINER_NAME: container.name,
        POD_NAME: pod.metadata.name,
        POD_NAMESPACE: pod.metadata.namespace,
        POD_UID: pod.metadata.uid,
    }


def container_annotations(
    pod: Pod, container: AnyContainer, restart_count: int, termination_file: str
) -> dict[str, str]:
    return {
        CONTAINER_HASH: container_hash(container),
        RESTART_COUNT: str(restart_count),
        TERMINATION_MESSAGE_PATH: container.termination_message_path,
        TERMINATION_MESSAGE_POLICY: container.termination_message_policy,
        TERMINATION_MESSAGE_FILE: termination_file,
        POD_GRACE_PERIOD: str(int(grace_period(pod).total_seconds())),
    }
