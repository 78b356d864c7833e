"""The controller manager: which controllers there are, which of them run, and that only one manager works.

https://kubernetes.io/docs/reference/command-line-tools-reference/kube-controller-manager/
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client import Client, Controller, Election, EventRecorder, Informers
from tiphys.controllers.accounts import AccountClients
from tiphys.controllers.attachdetach import AttachDetachController
from tiphys.controllers.bootstrap import BootstrapSignerController, TokenCleanerController
from tiphys.controllers.certificates import (
    CSRApprovingController,
    CSRCleanerController,
    CSRSigningController,
    KubeletServingApprover,
)
from tiphys.controllers.cloud.routes import RouteController
from tiphys.controllers.cloud.services import ServiceLBController
from tiphys.controllers.clusterroleaggregation import ClusterRoleAggregationController
from tiphys.controllers.common.context import ControllerContext, Options
from tiphys.controllers.cronjob import CronJobController
from tiphys.controllers.daemonset import DaemonSetController
from tiphys.controllers.deployment import DeploymentController
from tiphys.controllers.disruption import DisruptionController
from tiphys.controllers.endpointslice import (
    EndpointsController,
    EndpointSliceController,
    EndpointSliceMirroringController,
)
from tiphys.controllers.garbagecollector import GarbageCollector
from tiphys.controllers.job import JobController
from tiphys.controllers.localpath import LocalPathProvisioner
from tiphys.controllers.namespace import NamespaceController
from tiphys.controllers.nodeipam import NodeIpamController
from tiphys.controllers.nodelifecycle import NodeLifecycleController
from tiphys.controllers.persistentvolume import (
    EphemeralVolumeController,
    PersistentVolumeBinder,
    PersistentVolumeExpander,
    VACProtectionController,
)
from tiphys.controllers.podautoscaler import HorizontalPodAutoscalerController
from tiphys.controllers.podgc import PodGCController
from tiphys.controllers.policystatus import PolicyStatusController
from tiphys.controllers.replicaset import REPLICA_SETS, REPLICATION_CONTROLLERS, ReplicaSetController
from tiphys.controllers.resourceclaim import ResourceClaimController
from tiphys.controllers.resourcequota import ResourceQuotaController
from tiphys.controllers.serviceaccount import (
    LegacyTokenCleaner,
    RootCAPublisher,
    ServiceAccountController,
    TokenController,
)
from tiphys.controllers.servicecidr import ServiceCIDRController
from tiphys.controllers.statefulset import StatefulSetController
from tiphys.controllers.tainteviction import TaintEvictionController
from tiphys.controllers.ttl import TTLController
from tiphys.controllers.ttlafterfinished import TTLAfterFinishedController
from tiphys.controllers.volumeprotection import PVCProtectionController, PVProtectionController

log = get_logger(__name__)

Constructor = Callable[[ControllerContext], Controller[Any]]

CONTROLLERS: Final[Mapping[str, Constructor]] = MappingProxyType(
    {
        "serviceaccount-token-controller": TokenController,
        # Slices before Endpoints: who sees a change in the older form finds it in the newer one too.
        "endpointslice-controller": EndpointSliceController,
        "endpoints-controller": EndpointsController,
        "endpointslice-mirroring-controller": EndpointSliceMirroringController,
        "replicationcontroller-controller": lambda context: ReplicaSetController(context, REPLICATION_CONTROLLERS),
        "pod-garbage-collector-controller": PodGCController,
        "resourcequota-controller": ResourceQuotaController,
        "namespace-controller": NamespaceController,
        "serviceaccount-controller": ServiceAccountController,
        "garbage-collector-controller": GarbageCollector,
        "daemonset-controller": DaemonSetController,
        "job-controller": JobController,
        "deployment-controller": DeploymentController,
        "replicaset-controller": lambda context: ReplicaSetController(context, REPLICA_SETS),
        "horizontal-pod-autoscaler-controller": HorizontalPodAutoscalerController,
        "disruption-controller": DisruptionController,
        "statefulset-controller": StatefulSetController,
        "cronjob-controller": CronJobController,
        "certificatesigningrequest-signing-controller": CSRSigningController,
        "certificatesigningrequest-approving-controller": CSRApprovingController,
        "certificatesigningrequest-cleaner-controller": CSRCleanerController,
        "ttl-controller": TTLController,
        "bootstrap-signer-controller": BootstrapSignerController,
        "token-cleaner-controller": TokenCleanerController,
        "node-ipam-controller": NodeIpamController,
        "node-lifecycle-controller": NodeLifecycleController,
        "taint-eviction-controller": TaintEvictionController,
        "service-lb-controller": ServiceLBController,
        "node-route-controller": RouteController,
        "persistentvolume-binder-controller": PersistentVolumeBinder,
        "persistentvolume-attach-detach-controller": AttachDetachController,
        "persistentvolume-expander-controller": PersistentVolumeExpander,
        "clusterrole-aggregation-controller": ClusterRoleAggregationController,
        "persistentvolumeclaim-protection-controller": PVCProtectionController,
        "persistentvolume-protection-controller": PVProtectionController,
        "volumeattributesclass-protection-controller": VACProtectionController,
        "ttl-after-finished-controller": TTLAfterFinishedController,
        "root-ca-certificate-publisher-controller": RootCAPublisher,
        "ephemeral-volume-controller": EphemeralVolumeController,
        "resourceclaim-controller": ResourceClaimController,
        "validatingadmissionpolicy-status-controller": PolicyStatusController,
        "legacy-serviceaccount-token-cleaner-controller": LegacyTokenCleaner,
        "service-cidr-controller": ServiceCIDRController,
        # Not of kube-controller-manager: what a cluster of Tiphys brings along.
        "local-path-provisioner": LocalPathProvisioner,
        "kubelet-serving-approver": KubeletServingApprover,
    }
)

# Off unless named: what only clusters set up with bootstrap tokens use.
OFF_BY_DEFAULT: Final = frozenset(
    {"bootstrap-signer-controller", "token-cleaner-controller", "kubelet-serving-approver"}
)

# Names of before v1.28, which `--controllers` still takes.
ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "serviceaccount-token": "serviceaccount-token-controller",
        "endpoint": "endpoints-controller",
        "endpointslice": "endpointslice-controller",
        "endpointslicemirroring": "endpointslice-mirroring-controller",
        "replicationcontroller": "replicationcontroller-controller",
        "podgc": "pod-garbage-collector-controller",
        "resourcequota": "resourcequota-controller",
        "namespace": "namespace-controller",
        "serviceaccount": "serviceaccount-controller",
        "garbagecollector": "garbage-collector-controller",
        "daemonset": "daemonset-controller",
        "job": "job-controller",
        "deployment": "deployment-controller",
        "replicaset": "replicaset-controller",
        "horizontalpodautoscaling": "horizontal-pod-autoscaler-controller",
        "disruption": "disruption-controller",
        "statefulset": "statefulset-controller",
        "cronjob": "cronjob-controller",
        "csrsigning": "certificatesigningrequest-signing-controller",
        "csrapproving": "certificatesigningrequest-approving-controller",
        "csrcleaner": "certificatesigningrequest-cleaner-controller",
        "ttl": "ttl-controller",
        "bootstrapsigner": "bootstrap-signer-controller",
        "tokencleaner": "token-cleaner-controller",
        "nodeipam": "node-ipam-controller",
        "nodelifecycle": "node-lifecycle-controller",
        "persistentvolume-binder": "persistentvolume-binder-controller",
        "persistentvolume-expander": "persistentvolume-expander-controller",
        "attachdetach": "persistentvolume-attach-detach-controller",
        "ephemeral-volume": "ephemeral-volume-controller",
        "resource-claim-controller": "resourceclaim-controller",
        "service": "service-lb-controller",
        "route": "node-route-controller",
        "legacy-serviceaccount-token-cleaner": "legacy-serviceaccount-token-cleaner-controller",
        "clusterrole-aggregation": "clusterrole-aggregation-controller",
        "pvc-protection": "persistentvolumeclaim-protection-controller",
        "pv-protection": "persistentvolume-protection-controller",
        "ttl-after-finished": "ttl-after-finished-controller",
        "root-ca-cert-publisher": "root-ca-certificate-publisher-controller",
    }
)


def selected(names: Iterable[str], known: Iterable[str] = CONTROLLERS) -> list[str]:
    """The controllers that `--controllers` asks for, in the order of the table.

    `*` is all that are on by default, `foo` adds one, `-foo` takes one away, and a name beats the
    star. Raises ValueError for a name that does not exist.
    """
    table = list(known)
    star = False
    on: set[str] = set()
    off: set[str] = set()
    for text in names:
        if text == "*":
            star = True
            continue
        name = text.removeprefix("-")
        name = ALIASES.get(name, name)
        if name not in table:
            raise ValueError(f'"{text}" is not in the list of known controllers')
        (off if text.startswith("-") else on).add(name)
    return [name for name in table if name in on or (star and name not in off and name not in OFF_BY_DEFAULT)]


class ControllerManager:
    """Runs the controllers of one cluster while it leads."""

    def __init__(
        self,
        options: Options,
        client: Client,
        clock: Clock,
        *,
        controllers: Iterable[str] = ("*",),
        election: Election | None = None,
        use_accounts: bool = False,
    ) -> None:
        """`election`: work only while leading; `use_accounts`: every controller acts as its service account.

        Raises ValueError for an unknown controller.
        """
        self._use_accounts = use_accounts
        self._client = client
        self._clock = clock
        self._options = options
        self.names = selected(controllers)
        self._election = election
        self.is_leading = False

    async def run(self) -> None:
        """Work until cancelled. Raises LeadershipLost when another took over: the process should end then."""
        if self._election is None:
            await self._work()
            return
        recorder = EventRecorder(self._client, self._clock, "kube-controller-manager")
        elector = self._election.candidate(self._client, self._clock, recorder)
        async with Supervised(self._clock) as tasks:
            tasks.spawn(recorder.run, name="leader election events", restart=True)
            await elector.run(self._work)

    def _build(self, name: str, context: ControllerContext, accounts: AccountClients) -> Controller[Any]:
        if self._use_accounts:
            context = replace(context, client=accounts.of(name))
        return CONTROLLERS[name](context)

    async def _work(self) -> None:
        log.info("starting %d controllers (pid %d)", len(self.names), os.getpid())
        informers = Informers(self._client, self._clock)
        recorders: list[EventRecorder] = []

        def recorder(component: str) -> EventRecorder:
            recorders.append(EventRecorder(self._client, self._clock, component))
            return recorders[-1]

        context = ControllerContext(
            client=self._client,
            clock=self._clock,
            informers=informers,
            recorder=recorder,
            options=self._options,
        )
        async with AccountClients(self._client, self._clock) as accounts, Supervised(self._clock) as tasks:
            controllers = [self._build(name, context, accounts) for name in self.names]
            for number, made in enumerate(recorders):
                tasks.spawn(made.run, name=f"events {number}", restart=True)
            tasks.spawn(informers.run, name="informers")
            for controller in controllers:
                tasks.spawn(controller.run, name=controller.name, restart=True)
            self.is_leading = True
            try:
                await tasks.wait()
            finally:
                self.is_leading = False
