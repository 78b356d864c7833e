"""FlowControl: the levels and schemas in force, as their objects say, and the lending of seats between levels.

There is always a schema and a level `exempt` and `catch-all`: without objects of these names they are as at a new
cluster. A level whose object was deleted serves what is in it and is then forgotten; until then schemas may still
lead to it, so that requests already queued are not lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.bootstrap import flowcontrol as bootstrap
from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.flowcontrol.demand import Observed
from tiphys.apiserver.flowcontrol.queues import PriorityLevel
from tiphys.apiserver.flowcontrol.schema import FlowSchema, in_order
from tiphys.apiserver.flowcontrol.seats import Flows, Now
from tiphys.apiserver.flowcontrol.shares import Claim, LevelSpec, claim_of, divide, limits_of

Object = Mapping[str, Any]
MANDATORY: Final = ("exempt", "catch-all")
ADJUSTMENT: Final = 10.0  # seconds
REMEMBERED: Final = 10_000


class FlowControl:
    """See the module. `seats`: how many requests of one seat the server serves at once."""

    def __init__(self, seats: int, now: Now) -> None:
        self.seats = seats
        self.levels: dict[str, PriorityLevel] = {}
        self.flows: dict[tuple[str, str], Flows] = {}
        self.observed: dict[str, Observed] = {}
        self.claims: dict[str, Claim] = {}
        self.fraction = 0.0
        self._schemas: list[tuple[FlowSchema, Flows]] = []
        self._found: dict[tuple[object, ...], Flows] = {}
        self._now = now
        self.configure((), ())

    # --- configuration ----------------------------------------------------------------------------
    def configure(self, levels: Iterable[Object], schemas: Iterable[Object]) -> None:
        """Take the objects of both kinds."""
        specs = {spec.name: spec for spec in map(LevelSpec.from_json, levels)}
        given = {schema.name: schema for schema in map(FlowSchema.from_json, schemas)}
        for level in bootstrap.levels():
            if level["metadata"]["name"] in MANDATORY:
                specs.setdefault(level["metadata"]["name"], LevelSpec.from_json(level))
        for schema in bootstrap.schemas():
            if schema["metadata"]["name"] in MANDATORY:
                given.setdefault(schema["metadata"]["name"], FlowSchema.from_json(schema))
        self._configure_levels(specs)
        self._schemas = []
        for found in in_order(given.values()):
            target = self.levels.get(found.level)
            if target is not None:  # else it is dangling, and as if it were not there
                self._schemas.append((found, self._flows_of(found, target)))
        self._found.clear()

    def _configure_levels(self, specs: Mapping[str, LevelSpec]) -> None:
        for name, level in list(self.levels.items()):
            if name in specs:
                continue
            if level.idle:
                del self.levels[name]
                self.flows = {key: flows for key, flows in self.flows.items() if key[1] != name}
            else:
                level.quiescing = True
        # A level that is about to go keeps its seats meanwhile.
        staying = [level.spec for name, level in self.levels.items() if name not in specs]
        limits = limits_of([*specs.values(), *staying], self.seats)
        for name, spec in specs.items():
            if name in self.levels:
                self.levels[name].configure(spec, limits[name])
            else:
                self.levels[name] = PriorityLevel(spec, limits[name], self._now)

    def _flows_of(self, schema: FlowSchema, level: PriorityLevel) -> Flows:
        key = schema.name, level.spec.name
        flows = self.flows.get(key)
        if flows is None:
            flows = self.flows[key] = Flows(schema, level)
        else:
            flows.renew(schema, level)
        return flows

    @property
    def quiescing(self) -> bool:
        """Whether a level waits to be forgotten."""
        return any(level.quiescing for level in self.levels.values())

    # --- which flow -------------------------------------------------------------------------------
    def classify(self, user: UserInfo, info: RequestInfo) -> Flows:
        """The schema and level of a request. What was found is remembered until the configuration changes."""
        if info.is_resource:
            key: tuple[object, ...] = (
                user.name,
                user.groups,
                info.verb,
                info.resource,
                info.namespace,
                info.subresource,
                info.api_group,
            )
        else:
            key = (user.name, user.groups, info.verb, info.path)
        flows = self._found.get(key)
        if flows is None:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            flows = self._found[key] = self._search(user, info)
        return flows

    def _search(self, user: UserInfo, info: RequestInfo) -> Flows:
        last = None
        for schema, flows in self._schemas:
            if schema.matches(user, info):
                return flows
            if schema.name == "catch-all":
                last = flows
        if last is None:  # somebody has led even that one to a level that does not exist
            schema = FlowSchema("catch-all", "", "catch-all", 10_000, "", ())
            last = self._flows_of(schema, self.levels["catch-all"])
        return last

    # --- lending ----------------------------------------------------------------------------------
    def adjust(self) -> None:
        """Give each level the seats it should have now, going by what each could have used since the last time."""
        now = self._now()
        for name, level in self.levels.items():
            self.observed[name] = level.demand.take(now)
        self.claims = {
            name: claim_of(level.limits, self.observed[name].high, level.demand.smoothed, exempt=level.spec.exempt)
            for name, level in self.levels.items()
        }
        shared = [name for name, level in self.levels.items() if not level.spec.exempt]
        # What the exempt ones use is nobody's: the others share the rest.
        left = self.seats - sum(claim.least for name, claim in self.claims.items() if name not in shared)
        seats, self.fraction = divide([self.claims[name] for name in shared], max(left, 0.0))
        for name, found in zip(shared, seats, strict=True):
            level = self.levels[name]
            level.limit = int(found + 0.5)
            level.dispatch()
