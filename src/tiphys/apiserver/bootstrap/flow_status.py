"""Keeps the condition Dangling of flow schemas: whether the priority level they name exists.

https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#flowschema
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from tiphys.apiserver.bootstrap.changes import Changes
from tiphys.apiserver.bootstrap.flowcontrol import GROUP
from tiphys.apiserver.bootstrap.writer import Writer
from tiphys.apiserver.registry.strategy import Reader
from tiphys.apiserver.watchcache import WatchCache
from tiphys.base.clock import Clock
from tiphys.base.tasks import Supervised
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.time import format_time

Object = dict[str, Any]
MANAGER: Final = "api-priority-and-fairness-config-consumer-v1"
SCHEMAS: Final = "flowschemas"
LEVELS: Final = "prioritylevelconfigurations"


def dangling(level: str, exists: bool, now: str) -> Object:
    """The condition of a flow schema that names `level`."""
    found = "and it exists" if exists else "but there is no such object"
    return {
        "type": "Dangling",
        "status": "False" if exists else "True",
        "lastTransitionTime": now,
        "reason": "Found" if exists else "NotFound",
        "message": f'This FlowSchema references the PriorityLevelConfiguration object named "{level}" {found}',
    }


def condition_to_set(schema: Object, levels: set[str], now: str) -> Object | None:
    """The condition a flow schema should have; None when it has it."""
    level = ((schema.get("spec") or {}).get("priorityLevelConfiguration") or {}).get("name", "")
    wanted = dangling(level, level in levels, now)
    conditions = (schema.get("status") or {}).get("conditions") or ()
    known = next((one for one in conditions if one.get("type") == "Dangling"), None)
    if known is None:
        return wanted
    if known.get("status") == wanted["status"]:
        wanted["lastTransitionTime"] = known.get("lastTransitionTime")
    return None if known == wanted else wanted


class FlowSchemaStatus:
    """The loop; `start` and `stop` it."""

    def __init__(self, cache: WatchCache, reader: Reader, writer: Writer, clock: Clock) -> None:
        self._reader = reader
        self._writer = writer
        self._clock = clock
        self._tasks = Supervised(clock)
        kinds = [cache.kind(GROUP, plural) for plural in (SCHEMAS, LEVELS)]
        self._changes = Changes(kind for kind in kinds if kind is not None)

    async def start(self) -> None:
        """Bring every schema up to date, and keep it so."""
        await self._tasks.__aenter__()
        self._changes.changed.set()
        self._tasks.spawn(self._run, name="flow-schema-status", restart=True)

    async def stop(self) -> None:
        """End the loop."""
        await self._tasks.__aexit__(None, None, None)
        self._changes.close()

    async def _run(self) -> None:
        changed = self._changes.changed
        while True:
            await changed.wait()
            changed.clear()
            try:
                await self._sync()
            except BaseException:
                changed.set()  # the next attempt looks again
                raise

    async def _sync(self) -> None:
        levels = {level["metadata"]["name"] for level in self._reader.list(GROUP, LEVELS)}
        now = format_time(self._clock.now())
        for schema in self._reader.list(GROUP, SCHEMAS):
            condition = condition_to_set(schema, levels, now)
            if condition is not None:
                with suppress(NotFoundError):  # deleted meanwhile
                    name, status = schema["metadata"]["name"], {"conditions": [condition]}
                    await self._writer.apply_status(GROUP, "v1", SCHEMAS, name, status, MANAGER)
