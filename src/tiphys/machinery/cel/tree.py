"""Questions about a syntax tree."""

from __future__ import annotations

from tiphys.machinery.cel.ast import Call, Ident, ListOf, Macro, MapOf, Node, Select, Struct


def children(node: Node) -> list[Node]:
    """The nodes right below one."""
    match node:
        case Select(operand=operand):
            return [operand]
        case Call(target=target, args=args):
            return args if target is None else [target, *args]
        case ListOf(items=items):
            return items
        case MapOf(entries=entries):
            return [one for key, value, _ in entries for one in (key, value)]
        case Struct(fields=fields):
            return [value for _, value, _ in fields]
        case Macro(target=target, args=args):
            return [target, *args]
    return []


def mentions(node: Node, name: str) -> bool:
    """Whether a variable occurs."""
    if isinstance(node, Ident):
        return node.name == name
    return any(mentions(one, name) for one in children(node))
