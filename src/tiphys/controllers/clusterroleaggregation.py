"""Fills ClusterRoles that have an aggregationRule with the rules of the roles it selects.

https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles
"""

from __future__ import annotations

from msgspec.structs import replace

from tiphys.api.rbac.v1 import ClusterRole, PolicyRule
from tiphys.client import DONE, Controller, Result, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.selectors import selector_of
from tiphys.machinery.meta import ObjectName


class ClusterRoleAggregationController(Controller[ObjectName]):
    """The controller `clusterrole-aggregation-controller`."""

    name = "clusterrole_aggregator"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._roles = context.informers.of(ClusterRole)
        super().__init__(context.clock, (self._roles,))
        self._roles.add_handler(self._changed, lambda old, new: self._updated(old, new), self._changed)

    def _changed(self, _: ClusterRole) -> None:
        # Any role may be part of any aggregate; there are few of those.
        for role in self._roles.lister.list():
            if role.aggregation_rule is not None:
                self.queue.add(key_of(role))

    def _updated(self, old: ClusterRole, new: ClusterRole) -> None:
        if (old.rules, old.metadata.labels, old.aggregation_rule) != (
            new.rules,
            new.metadata.labels,
            new.aggregation_rule,
        ):
            self._changed(new)

    async def sync(self, key: ObjectName) -> Result:
        """Gather the rules of one aggregate."""
        role = self._roles.lister.get(key)
        if role is None or role.aggregation_rule is None:
            return DONE
        rules: list[PolicyRule] = []
        for selector in role.aggregation_rule.cluster_role_selectors:
            matcher = selector_of(selector)
            matching = [
                other
                for other in self._roles.lister.list(selector=matcher)
                if other.metadata.name != role.metadata.name
            ]
            for other in sorted(matching, key=lambda found: found.metadata.name):
                rules += [rule for rule in other.rules if rule not in rules]
        if tuple(rules) != role.rules:
            await self._client.update(replace(role, rules=tuple(rules)))
        return DONE
