"""What happens in a cluster that can make an unschedulable pod schedulable.

A plugin names the events that could undo its rejection, each with an optional hint that looks closer. A pod
is tried again when one of the plugins that rejected it asks for that.
Source: Kubernetes documentation, "Scheduling Framework", EnqueueExtension; KEP-4247.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from tiphys.scheduler.podinfo import PodInfo


class Event(Enum):
    """A change of the cluster, as fine as plugins tell them apart."""

    __hash__ = object.__hash__  # there is one of each; Enum's own is many times slower

    NODE_ADD = "NodeAdd"
    NODE_ALLOCATABLE = "NodeAllocatableChange"
    NODE_LABEL = "NodeLabelChange"
    NODE_TAINT = "NodeTaintChange"  # taints, or spec.unschedulable
    NODE_DECLARED_FEATURE = "NodeDeclaredFeatureChange"
    NODE_DELETE = "NodeDelete"
    POD_ADD = "AssignedPodAdd"  # a pod now runs somewhere
    POD_UPDATE = "AssignedPodUpdate"  # its labels changed, or it asks for less
    POD_DELETE = "AssignedPodDelete"
    TARGET_POD_UPDATE = "UnscheduledPodUpdate"  # the waiting pod itself changed
    NAMESPACE_LABEL = "NamespaceLabelChange"
    CLAIM = "PersistentVolumeClaimChange"
    VOLUME = "PersistentVolumeChange"
    STORAGE_CLASS = "StorageClassChange"
    CSI_NODE = "CSINodeChange"
    CSI_DRIVER = "CSIDriverChange"
    CSI_CAPACITY = "CSIStorageCapacityChange"
    VOLUME_ATTACHMENT = "VolumeAttachmentDelete"
    RESOURCE_CLAIM = "ResourceClaimChange"
    RESOURCE_SLICE = "ResourceSliceChange"
    DEVICE_CLASS = "DeviceClassChange"
    FLUSH = "UnschedulableTimeout"  # five minutes have passed: always tried again


# (the waiting pod, the object before, the object after) -> may this make it schedulable? Objects are None where
# there was or is none; pods are given as PodInfo, everything else as its API type.
Hint = Callable[[PodInfo, Any, Any], bool]


def always(_pod: PodInfo, _old: Any, _new: Any) -> bool:
    """The hint of an event that needs no closer look."""
    return True


Requeue = Mapping[Event, Hint]
EVERY_EVENT: Requeue = dict.fromkeys(Event, always)
