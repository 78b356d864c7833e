"""NodePorts: the host ports a pod asks for must be free. Source: ContainerPort.hostPort in the API reference."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import SKIP, CycleState, Skip, Verdict
from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.podinfo import HostPort, PodInfo

REASON: Final = "node(s) didn't have free ports for the requested pod ports"


def conflict(wanted: HostPort, used: HostPort) -> bool:
    """Two bindings of one port and protocol conflict on equal addresses, or when one takes every address."""
    return wanted[1:] == used[1:] and (wanted.ip == used.ip or not wanted.ip or not used.ip)


def frees_port(pod: PodInfo, old: object, _new: object) -> bool:
    if not isinstance(old, PodInfo):
        return True
    return any(conflict(wanted, used) for wanted in pod.ports for used in old.ports)


class NodePorts:
    name: ClassVar[str] = "NodePorts"
    row_local: ClassVar[bool] = True
    requeue_on: ClassVar[Requeue] = {Event.POD_DELETE: frees_port, Event.NODE_ADD: always}

    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Skip | None:
        return None if pod.ports else SKIP

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        taken: set[int] = set()
        for wanted in pod.ports:
            for row in nodes.port_rows.get((wanted.protocol, wanted.port), ()):
                info = nodes.rows[row]
                if info is not None and any(conflict(wanted, used) for used in info.ports):
                    taken.add(row)
        if not taken:
            return None
        return Verdict(np.logical_not(nodes.mask_of(taken)), REASON)
