"""The pods that make and remove a volume's directory. Pure.

Only what runs on a node can touch its files. A helper pod is put on the volume's node past the
scheduler (a node that takes no new pods must still be cleaned), sees the directory of all volumes,
and does one thing to one entry of it. Its end is its answer.
"""

from __future__ import annotations

from enum import Enum
from posixpath import split
from typing import Final

from tiphys.api.core.v1 import (
    Container,
    HostPathVolumeSource,
    Pod,
    PodSecurityContext,
    PodSpec,
    Toleration,
    Volume,
    VolumeMount,
)
from tiphys.api.meta.v1 import ObjectMeta

NAMESPACE: Final = "kube-system"
VOLUME: Final = "tiphys.dev/local-path-volume"  # label: the volume's name
CLAIM: Final = "tiphys.dev/local-path-claim"  # annotation: namespace/name
DEADLINE_SECONDS: Final = 120
_MOUNT: Final = "/volumes"


class Action(Enum):
    """What a helper does."""

    CREATE = "create"
    DELETE = "delete"


# Everyone may write, as any user may be the one of the pod; who may enter is decided by who may mount.
_SCRIPTS: Final = {
    Action.CREATE: "import os, sys; os.makedirs(sys.argv[1], exist_ok=True); os.chmod(sys.argv[1], 0o777)",
    Action.DELETE: "import os, shutil, sys; os.path.lexists(sys.argv[1]) and shutil.rmtree(sys.argv[1])",
}


def helper_name(action: Action, volume: str) -> str:
    """The helper's name: at most one for each action and volume."""
    return f"local-path-{action.value}-{volume}"


def helper(action: Action, *, volume: str, claim: str, node: str, path: str, image: str) -> Pod:
    """The pod that does `action` to `path` on `node`. Raises ValueError for a path that is not absolute."""
    parent, entry = split(path)
    if not parent.startswith("/") or entry in ("", ".", ".."):
        raise ValueError(f"{path!r} is not the path of a volume")
    container = Container(
        name="helper",
        image=image,
        image_pull_policy="IfNotPresent",
        command=("python3", "-c", _SCRIPTS[action], f"{_MOUNT}/{entry}"),
        volume_mounts=(VolumeMount(name="volumes", mount_path=_MOUNT),),
    )
    return Pod(
        metadata=ObjectMeta(
            name=helper_name(action, volume),
            namespace=NAMESPACE,
            labels={VOLUME: volume},
            annotations={CLAIM: claim},
        ),
        spec=PodSpec(
            node_name=node,
            restart_policy="Never",
            active_deadline_seconds=DEADLINE_SECONDS,
            automount_service_account_token=False,
            enable_service_links=False,
            priority_class_name="system-node-critical",
            termination_grace_period_seconds=1,
            host_network=True,  # needs no network at all, and this kind costs none
            tolerations=(Toleration(operator="Exists"),),
            security_context=PodSecurityContext(run_as_user=0),
            containers=(container,),
            volumes=(Volume(name="volumes", host_path=HostPathVolumeSource(path=parent, type="DirectoryOrCreate")),),
        ),
    )


def message_of(pod: Pod) -> str:
    """Why a helper failed."""
    for status in pod.status.container_statuses:
        ended = status.state.terminated if status.state is not None else None
        if ended is not None and ended.exit_code:
            return ended.message or f"the helper ended with exit code {ended.exit_code}"
    return pod.status.message or pod.status.reason or "the helper failed"
