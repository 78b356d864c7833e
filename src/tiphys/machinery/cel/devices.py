"""Device selectors of dynamic resource allocation: expressions over one `device`.

https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from __future__ import annotations

from typing import Final

from tiphys.machinery.cel.errors import CelSyntaxError
from tiphys.machinery.cel.program import compile_expression
from tiphys.machinery.cel.types import BOOL, DYN, STRING, Type, map_of

DEVICE: Final = Type(
    "object",
    name="DRADevice",
    fields={
        "driver": STRING,
        "attributes": map_of(STRING, map_of(STRING, DYN)),
        "capacity": map_of(STRING, map_of(STRING, Type("quantity"))),
        "allowMultipleAllocations": BOOL,
    },
)


def selector_problem(source: str) -> str:
    """What keeps an expression from being a device selector; "" for a good one."""
    try:
        program = compile_expression(source, {"device": DEVICE})
    except CelSyntaxError as error:
        return f"compilation failed: {error}"
    kind = program.type.kind
    if kind in ("bool", "dyn"):
        return ""
    return f"must evaluate to bool or the unknown type, not {'null_type' if kind == 'null' else program.type}"
