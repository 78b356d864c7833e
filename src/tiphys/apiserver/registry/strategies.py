"""The table of strategies: which rules each stored resource follows. What is not listed follows `TableStrategy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tiphys.api.table import Resource
from tiphys.apiserver.registry.apps.controllerrevisions import ControllerRevisionStrategy
from tiphys.apiserver.registry.apps.daemonsets import DaemonSetStrategy
from tiphys.apiserver.registry.apps.deployments import DeploymentStrategy
from tiphys.apiserver.registry.apps.replicasets import ReplicaSetStrategy
from tiphys.apiserver.registry.apps.statefulsets import StatefulSetStrategy
from tiphys.apiserver.registry.coordination.leases import LeaseStrategy
from tiphys.apiserver.registry.core.configmaps import ConfigMapStrategy
from tiphys.apiserver.registry.core.endpoints import EndpointsStrategy
from tiphys.apiserver.registry.core.namespaces import NamespaceStrategy
from tiphys.apiserver.registry.core.nodes import NodeStrategy
from tiphys.apiserver.registry.core.pods import PodStrategy
from tiphys.apiserver.registry.core.podtemplates import PodTemplateStrategy
from tiphys.apiserver.registry.core.replicationcontrollers import ReplicationControllerStrategy
from tiphys.apiserver.registry.core.secrets import SecretStrategy
from tiphys.apiserver.registry.core.serviceaccounts import ServiceAccountStrategy
from tiphys.apiserver.registry.core.services import ServiceStrategy
from tiphys.apiserver.registry.discovery.endpointslices import EndpointSliceStrategy
from tiphys.apiserver.registry.events.events import EventStrategy
from tiphys.apiserver.registry.kinds import TableStrategy
from tiphys.apiserver.registry.rbac.bindings import ClusterRoleBindingStrategy, RoleBindingStrategy
from tiphys.apiserver.registry.rbac.roles import ClusterRoleStrategy, RoleStrategy
from tiphys.apiserver.registry.strategy import Strategy

RBAC: Final = "rbac.authorization.k8s.io"

# (group, plural) → the strategy of its storage version.
STRATEGIES: Final[Mapping[tuple[str, str], type[Strategy]]] = {
    ("", "configmaps"): ConfigMapStrategy,
    ("", "endpoints"): EndpointsStrategy,
    ("", "events"): EventStrategy,
    ("", "namespaces"): NamespaceStrategy,
    ("", "nodes"): NodeStrategy,
    ("", "pods"): PodStrategy,
    ("", "podtemplates"): PodTemplateStrategy,
    ("", "replicationcontrollers"): ReplicationControllerStrategy,
    ("", "secrets"): SecretStrategy,
    ("", "serviceaccounts"): ServiceAccountStrategy,
    ("", "services"): ServiceStrategy,
    ("apps", "controllerrevisions"): ControllerRevisionStrategy,
    ("apps", "daemonsets"): DaemonSetStrategy,
    ("apps", "deployments"): DeploymentStrategy,
    ("apps", "replicasets"): ReplicaSetStrategy,
    ("apps", "statefulsets"): StatefulSetStrategy,
    ("coordination.k8s.io", "leases"): LeaseStrategy,
    ("discovery.k8s.io", "endpointslices"): EndpointSliceStrategy,
    (RBAC, "clusterrolebindings"): ClusterRoleBindingStrategy,
    (RBAC, "clusterroles"): ClusterRoleStrategy,
    (RBAC, "rolebindings"): RoleBindingStrategy,
    (RBAC, "roles"): RoleStrategy,
}


def strategy_for(resource: Resource) -> Strategy:
    """The strategy of a resource, given in its storage version."""
    return STRATEGIES.get((resource.group, resource.plural), TableStrategy)(resource)
