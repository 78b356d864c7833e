"""Starts all containers of a pod anew, in its place: address, volumes and sandbox stay (KEP-5532).

```
 a container ends as a rule says ──► all are killed ──► their remains removed, the trigger's last ──► init containers …
 └──────────────────────────── condition AllContainersRestarting ───────────────────────────────────────────┘
```
The trigger's remains are the memory of what is under way: they go last, so that a kubelet that died in between goes on.
"""

from __future__ import annotations

import asyncio

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod
from tiphys.kubelet.pods.kill import stop_container
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.status.conditions import ALL_RESTARTING


async def restart_all(services: PodServices, pod: Pod, runtime: RuntimePod, trigger: RuntimeContainer) -> None:
    """One step: kill what runs, without grace or preStop, or remove the remains. Called until no trigger is left."""
    if runtime.running:
        message = f"Stopping container {{}}: container {trigger.name} asked for a restart of all"
        await asyncio.gather(
            *(
                stop_container(services, pod, one, 0, message=message.format(one.name), forced=True)
                for one in runtime.running
            )
        )
        return
    # The API must know how they ended before nothing but it knows.
    await services.status.flushed(runtime.uid)
    others = [container for container in runtime.containers if container.id != trigger.id]
    for container in (*others, trigger):
        await services.runtime.remove_container(container.id)


def is_restarting(pod: Pod) -> bool:
    """Whether the pod's status says that all its containers are on the way to a new start."""
    return any(one.type == ALL_RESTARTING and one.status == "True" for one in pod.status.conditions)


def restarted(pod: Pod, runtime: RuntimePod) -> bool:
    """Whether every regular container has been started since."""
    return all(runtime.container(container.name) is not None for container in pod.spec.containers)
