"""Static types of an expression, and the errors there are before it runs, worded as cel-go words them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tiphys.machinery.cel.ast import Call, Ident, ListOf, Literal, Macro, MapOf, Node, Select, Struct
from tiphys.machinery.cel.constants import argument_problems
from tiphys.machinery.cel.errors import CelSyntaxError, located
from tiphys.machinery.cel.parser import dotted_name as dotted
from tiphys.machinery.cel.signatures import FUNCTIONS, METHODS, NAMESPACES, TYPE_NAMES, Overload
from tiphys.machinery.cel.types import (
    BOOL,
    DYN,
    INT,
    STRING,
    Bindings,
    Type,
    common,
    fits,
    list_of,
    map_of,
    optional_of,
    resolved,
    type_of_type,
)
from tiphys.machinery.cel.values import UInt

Scope = Mapping[str, Type]


def check(source: str, node: Node, variables: Scope) -> Type:
    """The type of an expression over variables of known types. Raises CelSyntaxError with all that is wrong."""
    checker = Checker(source)
    found = checker.type_of(node, variables)
    problems = checker.problems or checker.mixed
    if problems:
        raise CelSyntaxError(located(source, sorted(problems)))
    return found


class Checker:
    """One check; `problems` collects (offset, message), `types` what every node is."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[tuple[int, str]] = []
        # Literals with items of several types: told when everything else is in order.
        self.mixed: list[tuple[int, str]] = []
        self._may_mix = False
        self.types: dict[int, Type] = {}

    def type_of(self, node: Node, scope: Scope) -> Type:
        """The type of a node; dyn where there was a problem."""
        found = self._type_of(node, scope)
        self.types[id(node)] = found
        if isinstance(node, Call):
            self.problems += argument_problems(node, self.types)
        return found

    def _problem(self, at: int, message: str) -> Type:
        self.problems.append((at, message))
        return DYN

    def _type_of(self, node: Node, scope: Scope) -> Type:
        match node:
            case Literal(value=value):
                return _literal_type(value)
            case Ident(at=at, name=name):
                return self._ident(at, name, scope)
            case Select():
                return self._select(node, scope)
            case ListOf():
                return self._list(node, scope)
            case MapOf():
                return self._map(node, scope)
            case Struct():
                for _, value, _ in node.fields:
                    self.type_of(value, scope)
                return self._struct(node)
            case Macro():
                return self._macro(node, scope)
            case Call():
                return self._call(node, scope)
        raise AssertionError(node)

    def _struct(self, node: Struct) -> Type:
        name = node.name
        if name == "JSONPatch":
            return Type("object", name=name)
        if name in TYPE_NAMES:
            return TYPE_NAMES[name]
        if name.split(".")[0] not in ("Object", "google"):
            return self._problem(node.at, f"undeclared reference to '{name}' (in container '')")
        return DYN

    def _ident(self, at: int, name: str, scope: Scope) -> Type:
        if name in scope:
            return scope[name]
        if name in TYPE_NAMES:
            return type_of_type(TYPE_NAMES[name])
        return self._problem(at, f"undeclared reference to '{name}' (in container '')")

    def _select(self, node: Select, scope: Scope) -> Type:
        name = dotted(node)
        if name in TYPE_NAMES and "." in name:
            return type_of_type(TYPE_NAMES[name])
        operand = self.type_of(node.operand, scope)
        optional = node.optional
        if operand.kind == "optional_type":
            operand, optional = operand.element, True
        found = self._field(node, operand)
        if node.test:
            return BOOL
        return optional_of(found) if optional and found.kind != "optional_type" else found

    def _field(self, node: Select, operand: Type) -> Type:
        if operand.is_dyn:
            return DYN
        if operand.kind == "map":
            return operand.mapped
        if operand.kind == "object":
            if node.field not in operand.fields:
                return self._problem(node.at, f"undefined field '{node.field}'")
            return operand.fields[node.field]
        if (operand.kind, node.field) == ("authorizer", "requestResource"):
            return Type("resourceCheck")
        return self._problem(node.at, f"type '{operand}' does not support field selection")

    def _list(self, node: ListOf, scope: Scope) -> Type:
        item: Type | None = None
        for index, one in enumerate(node.items):
            found = self.type_of(one, scope)
            if index in node.optional:
                if found.kind == "optional_type":
                    found = found.element
                elif not found.is_dyn:
                    found = self._problem(one.at, f"expected type 'optional_type({found})' but found '{found}'")
            item = self._joined(one.at, item, found)
        return list_of(item or DYN, len(node.items))

    def _joined(self, at: int, known: Type | None, found: Type) -> Type:
        if known is None:
            return found
        joined = common(known, found)
        if joined is None:
            if not self._may_mix:
                self.mixed.append((at, f"expected type '{known}' but found '{found}'"))
            return DYN
        return joined

    def _map(self, node: MapOf, scope: Scope) -> Type:
        keys: Type | None = None
        values: Type | None = None
        for key, value, optional in node.entries:
            keys = self._joined(key.at, keys, self.type_of(key, scope))
            found = self.type_of(value, scope)
            if optional and found.kind == "optional_type":
                found = found.element
            values = self._joined(value.at, values, found)
        return map_of(keys or DYN, values or DYN, len(node.entries))

    # --- calls ------------------------------------------------------------------------------------
    def _call(self, node: Call, scope: Scope) -> Type:
        name = node.name
        if name in ("_&&_", "_||_"):
            return self._logic(node, scope)
        if node.target is None:
            args = [self.type_of(one, scope) for one in node.args]
            return self._resolve(node.at, name, FUNCTIONS.get(name), args)
        space = dotted(node.target)
        if space in NAMESPACES and space not in scope:
            args = [self.type_of(one, scope) for one in node.args]
            return self._resolve(node.at, f"{space}.{name}", FUNCTIONS.get(f"{space}.{name}"), args)
        target = self.type_of(node.target, scope)
        if name == "format" and len(node.args) == 1 and isinstance(node.args[0], ListOf):
            self._may_mix, before = True, self._may_mix  # the one list whose items may differ
            for one in node.args[0].items:
                self.type_of(one, scope)
            self._may_mix = before
            self.types[id(node.args[0])] = list_of(DYN)
            args = [target, list_of(DYN)]
        else:
            args = [target, *(self.type_of(one, scope) for one in node.args)]
        return self._resolve(node.at, name, METHODS.get(name), args, method=True)

    def _logic(self, node: Call, scope: Scope) -> Type:
        for one in node.args:
            found = self.type_of(one, scope)
            if not fits(BOOL, found, {}):
                self._problem(one.at, f"expected type 'bool' but found '{found}'")
        return BOOL

    def _resolve(
        self, at: int, name: str, overloads: Sequence[Overload] | None, args: list[Type], *, method: bool = False
    ) -> Type:
        if overloads is None and name in (FUNCTIONS if method else METHODS):
            overloads = ()
        if overloads is None:
            return self._problem(at, f"undeclared reference to '{name}' (in container '')")
        result: Type | None = None
        for overload in overloads:
            if len(overload.args) != len(args):
                continue
            bindings: Bindings = {}
            if all(fits(wanted, given, bindings) for wanted, given in zip(overload.args, args, strict=True)):
                found = resolved(overload.result, bindings)
                result = found if result is None or str(found) == str(result) else DYN
        if result is not None:
            return result
        shown = f"{args[0]}.({', '.join(map(str, args[1:]))})" if method else f"({', '.join(map(str, args))})"
        return self._problem(at, f"found no matching overload for '{name}' applied to '{shown}'")

    # --- macros -----------------------------------------------------------------------------------
    def _macro(self, node: Macro, scope: Scope) -> Type:
        target = self.type_of(node.target, scope)
        if node.name in ("optMap", "optFlatMap"):
            value = target.element if target.kind == "optional_type" else DYN
            found = self.type_of(node.args[0], {**scope, node.variables[0]: value})
            return found if node.name == "optFlatMap" else optional_of(found)
        inner = {**scope, **self._iterated(node, target)}
        types = [self.type_of(one, inner) for one in node.args]
        judged = node.name in ("all", "exists", "exists_one", "filter") or len(types) == 2
        if judged and not fits(BOOL, types[0], {}):
            self._not_bool(node, types, inner)
        match node.name:
            case "sortBy":
                return target if target.kind == "list" else list_of(DYN)
            case "filter":
                return list_of(inner[node.variables[0]])
            case "map" | "transformList":
                return list_of(types[-1], target.size)
            case "transformMap":
                return map_of(inner[node.variables[0]], types[-1])
            case "transformMapEntry":
                return types[-1]
        return BOOL

    def _not_bool(self, node: Macro, types: Sequence[Type], inner: Scope) -> None:
        """A condition that is none: each macro says so by what it is made of."""
        if node.name in ("all", "exists"):
            self._problem(node.args[0].at, f"expected type 'bool' but found '{types[0]}'")
            return
        out = types[-1] if len(types) == 2 else inner[node.variables[0]]
        shown = "int, int" if node.name == "exists_one" else ", ".join([str(list_of(out))] * 2)
        self._problem(node.at, f"found no matching overload for '_?_:_' applied to '({types[0]}, {shown})'")

    def _iterated(self, node: Macro, target: Type) -> dict[str, Type]:
        """The types of the variables of a comprehension."""
        types: tuple[Type, ...]
        if target.kind == "list":
            types = (target.element,) if len(node.variables) == 1 else (INT, target.element)
        elif target.kind == "map":
            types = (target.element,) if len(node.variables) == 1 else (target.element, target.mapped)
        else:
            if not target.is_dyn:
                message = (
                    f"expression of type '{target}' cannot be range of a comprehension (must be list, map, or dynamic)"
                )
                self._problem(node.target.at, message)
            types = (DYN,) * len(node.variables)
        return dict(zip(node.variables, types, strict=True))


def _literal_type(value: object) -> Type:
    match value:
        case None:
            return Type("null")
        case bool():
            return BOOL
        case UInt():
            return Type("uint")
        case int():
            return INT
        case float():
            return Type("double")
        case str():
            return Type("string", size=len(value)) if value else STRING
    return Type("bytes")
