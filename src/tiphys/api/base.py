"""What every generated type shares.

A type is a frozen struct: to write, copy it with `msgspec.structs.replace`. Fields that are empty
are not encoded, as absent and empty mean the same for them; where the two differ the type is `X | None`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

import msgspec

from tiphys.api.names import WIRE_NAMES

if TYPE_CHECKING:
    from tiphys.api.meta.v1 import ListMeta, ObjectMeta

# JSON that stays as it came: few readers of an object look at its field ownership, half of the cost of decoding a pod.
Raw = msgspec.Raw
# A time written with exactly six digits of its fraction; a plain datetime is written in whole seconds.
MicroTime = Annotated[datetime, msgspec.Meta(extra={"micro": True})]


def wire_name(name: str) -> str:
    """The JSON name of a Python field name: `node_name` → `nodeName`, `pod_ips` → `podIPs`."""
    special = WIRE_NAMES.get(name)
    if special is not None:
        return special
    first, *rest = name.split("_")
    return first + "".join([word.capitalize() for word in rest])


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, rename=wire_name):
    """Base of all wire types."""


class Object(Protocol):
    """Any top-level kind that is stored: a Pod, a Node, …"""

    API_VERSION: ClassVar[str]
    KIND: ClassVar[str]

    @property
    def metadata(self) -> ObjectMeta: ...


class ObjectList(Protocol):
    """Any list kind: a PodList, …"""

    API_VERSION: ClassVar[str]
    KIND: ClassVar[str]

    @property
    def metadata(self) -> ListMeta: ...
