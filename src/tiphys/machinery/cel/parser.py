"""Text to syntax tree: a hand-written recursive-descent parser of the CEL grammar, macros included.

    Expr = Or ["?" Or ":" Expr]      Or = And {"||" And}      And = Rel {"&&" Rel}      Rel = Add {op Add}
    Add = Mul {("+" | "-") Mul}      Mul = Unary {("*" | "/" | "%") Unary}      Unary = {"!" | "-"} Member

https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from tiphys.machinery.cel.ast import Call, Ident, ListOf, Literal, Macro, MapOf, Node, Select, Struct
from tiphys.machinery.cel.errors import CelSyntaxError, located
from tiphys.machinery.cel.literals import number, text_literal

MAX_DEPTH: Final = 50
MAX_CHARACTERS: Final = 100_000
_QUOTED: Final = (
    r"\"\"\"(?:\\.|[^\\])*?\"\"\"",
    r"\'\'\'(?:\\.|[^\\])*?\'\'\'",
    r'"(?:\\.|[^"\\\n])*"',
    r"'(?:\\.|[^'\\\n])*'",
)
_FLOATS: Final = (
    r"[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?",
    r"[0-9]+[eE][+-]?[0-9]+",
    r"\.[0-9]+(?:[eE][+-]?[0-9]+)?",
)
_TOKENS: Final = re.compile(
    r"(?P<space>[ \t\r\n\f]+|//[^\n]*)"
    rf"|(?P<string>[bBrR]{{0,2}}(?:{'|'.join(_QUOTED)}))"
    rf"|(?P<number>0x[0-9a-fA-F]+u?|{'|'.join(_FLOATS)}|[0-9]+[uU]?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<quoted>`[A-Za-z0-9_.\-/ ]+`)"
    r"|(?P<op>\|\||&&|==|!=|<=|>=|[<>+\-*/%!?:.,()\[\]{}])",
    re.DOTALL,
)
RESERVED: Final = frozenset(
    [
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
_RELATIONS: Final = {"==": "_==_", "!=": "_!=_", "<": "_<_", "<=": "_<=_", ">": "_>_", ">=": "_>=_", "in": "@in"}
# Methods that bind variables: how many variables and how many expressions follow, per number of arguments.
_MACROS: Final[dict[str, dict[int, int]]] = {
    "all": {2: 1, 3: 2},
    "exists": {2: 1, 3: 2},
    "exists_one": {2: 1, 3: 2},
    "existsOne": {3: 2},
    "map": {2: 1, 3: 1},
    "filter": {2: 1},
    "sortBy": {2: 1},
    "transformList": {3: 2, 4: 2},
    "transformMap": {3: 2, 4: 2},
    "transformMapEntry": {3: 2, 4: 2},
    "optMap": {2: 1},
    "optFlatMap": {2: 1},
}


class Token(NamedTuple):
    """One token; `kind` is string, number, name, quoted, op or end."""

    kind: str
    text: str
    at: int


def parse(source: str) -> Node:
    """The tree of an expression. Raises CelSyntaxError."""
    if len(source) > MAX_CHARACTERS:
        raise CelSyntaxError(f"expression code point size exceeds limit: size: {len(source)}, limit {MAX_CHARACTERS}")
    return _Parser(source).whole()


def _tokens(source: str) -> list[Token]:
    found, at = [], 0
    while at < len(source):
        match = _TOKENS.match(source, at)
        if match is None:
            message = f"Syntax error: token recognition error at: '{source[at]}'"
            raise CelSyntaxError(located(source, [(at, message)]))
        kind = match.lastgroup or ""
        if kind != "space":
            found.append(Token(kind, match[0], at))
        at = match.end()
    found.append(Token("end", "<EOF>", len(source)))
    return found


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = _tokens(source)
        self._next = 0
        self._depth = 0

    # --- tokens -----------------------------------------------------------------------------------
    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _is(self, text: str) -> bool:
        token = self._tokens[self._next]
        return token.text == text and token.kind in ("op", "name")

    def _take(self) -> Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _accept(self, text: str) -> bool:
        if self._is(text):
            self._next += 1
            return True
        return False

    def _expect(self, text: str) -> Token:
        if not self._is(text):
            token = self._token
            raise self._error(token.at, f"Syntax error: mismatched input '{token.text}' expecting '{text}'")
        return self._take()

    def _error(self, at: int, message: str) -> CelSyntaxError:
        return CelSyntaxError(located(self._source, [(at, message)]))

    # --- expressions ------------------------------------------------------------------------------
    def whole(self) -> Node:
        node = self._expression()
        token = self._token
        if token.kind != "end":
            raise self._error(token.at, f"Syntax error: extraneous input '{token.text}' expecting <EOF>")
        return node

    def _expression(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(self._token.at, f"expression recursion limit exceeded: {MAX_DEPTH}")
        condition = self._or()
        if self._is("?"):
            at = self._take().at
            then = self._or()
            self._expect(":")
            condition = Call(at, "_?_:_", None, [condition, then, self._expression()])
        self._depth -= 1
        return condition

    def _or(self) -> Node:
        return self._chain("||", self._and)

    def _and(self) -> Node:
        return self._chain("&&", self._relation)

    def _chain(self, operator: str, operand: Callable[[], Node]) -> Node:
        """Long chains become balanced trees, so that they are not deep."""
        nodes, places = [operand()], [0]
        while self._is(operator):
            places.append(self._take().at)
            nodes.append(operand())
        return _balanced(f"_{operator}_", nodes, places)

    def _relation(self) -> Node:
        node = self._sum()
        while self._token.text in _RELATIONS and self._token.kind in ("op", "name"):
            token = self._take()
            node = Call(token.at, _RELATIONS[token.text], None, [node, self._sum()])
        return node

    def _sum(self) -> Node:
        node = self._product()
        while self._is("+") or self._is("-"):
            token = self._take()
            node = Call(token.at, f"_{token.text}_", None, [node, self._product()])
        return node

    def _product(self) -> Node:
        node = self._unary()
        while self._is("*") or self._is("/") or self._is("%"):
            token = self._take()
            node = Call(token.at, f"_{token.text}_", None, [node, self._unary()])
        return node

    def _unary(self) -> Node:
        if self._is("!"):
            at = self._take().at
            return Call(at, "!_", None, [self._unary()])
        if self._is("-"):
            token = self._take()
            following = self._token
            if following.kind == "number" and not following.text.endswith(("u", "U")):
                self._take()
                value = number(self._source, token.at, "-" + following.text)
                return self._member(Literal(token.at, value))
            return Call(token.at, "-_", None, [self._unary()])
        return self._member(self._primary())

    def _member(self, node: Node) -> Node:
        while True:
            if self._is("."):
                at = self._take().at
                optional = self._accept("?")
                node = self._selected(node, at, optional)
            elif self._is("["):
                at = self._take().at
                name = "_[?_]" if self._accept("?") else "_[_]"
                node = Call(at, name, None, [node, self._expression()])
                self._expect("]")
            elif self._is("{") and (name := dotted_name(node)):
                node = self._struct(name)
            else:
                return node

    def _selected(self, node: Node, at: int, optional: bool) -> Node:
        token = self._take()
        if token.kind == "quoted":
            raise self._error(token.at, "unsupported syntax: '`'")
        if token.kind != "name" or token.text in ("in", "true", "false", "null"):
            shown = "." if token.kind == "end" else f".{token.text}"
            raise self._error(token.at, f"Syntax error: no viable alternative at input '{shown}'")
        if self._is("(") and not optional:
            open_at = self._take().at
            return self._method(node, token.text, open_at, self._arguments(")"))
        return Select(at, node, token.text, optional=optional)

    def _method(self, target: Node, name: str, at: int, args: list[Node]) -> Node:
        counts = _MACROS.get(name)
        if counts is not None and len(args) in counts:
            variables = counts[len(args)]
            names = tuple(self._variable(one, name) for one in args[:variables])
            return Macro(at, "exists_one" if name == "existsOne" else name, target, names, args[variables:])
        return Call(at, name, target, args)

    def _variable(self, node: Node, macro: str) -> str:
        if not isinstance(node, Ident):
            raise self._error(node.at, "argument must be a simple name")
        return node.name

    def _arguments(self, end: str) -> list[Node]:
        found: list[Node] = []
        while not self._is(end):
            found.append(self._expression())
            if not self._accept(","):
                break
        self._expect(end)
        return found

    def _primary(self) -> Node:
        token = self._take()
        match token.kind:
            case "number":
                return Literal(token.at, number(self._source, token.at, token.text))
            case "string":
                return Literal(token.at, text_literal(self._source, token.at, token.text))
            case "name":
                return self._named(token)
            case "op" if token.text == "(":
                node = self._expression()
                self._expect(")")
                return node
            case "op" if token.text == "[":
                return self._list(token.at)
            case "op" if token.text == "{":
                return self._map(token.at)
            case "op" if token.text == "." and self._token.kind == "name":
                return self._named(self._take())
        raise self._error(token.at, f"Syntax error: mismatched input '{token.text}' expecting {_STARTS}")

    def _named(self, token: Token) -> Node:
        name = token.text
        if name in _CONSTANTS:
            return Literal(token.at, _CONSTANTS[name])
        if name in RESERVED or name == "in":
            raise self._error(token.at, f"reserved identifier: {name}")
        if not self._is("("):
            return Ident(token.at, name)
        at = self._take().at
        args = self._arguments(")")
        if name == "has" and len(args) == 1:
            only = args[0]
            if not isinstance(only, Select) or only.optional:
                raise self._error(only.at, "invalid argument to has() macro")
            return Select(at, only.operand, only.field, test=True)
        return Call(at, name, None, args)

    def _list(self, at: int) -> Node:
        items: list[Node] = []
        optional: set[int] = set()
        while not self._is("]"):
            if self._accept("?"):
                optional.add(len(items))
            items.append(self._expression())
            if not self._accept(","):
                break
        self._expect("]")
        return ListOf(at, items, frozenset(optional))

    def _map(self, at: int) -> Node:
        entries: list[tuple[Node, Node, bool]] = []
        while not self._is("}"):
            optional = self._accept("?")
            key = self._expression()
            self._expect(":")
            entries.append((key, self._expression(), optional))
            if not self._accept(","):
                break
        self._expect("}")
        return MapOf(at, entries)

    def _struct(self, name: str) -> Node:
        at = self._take().at
        fields: list[tuple[str, Node, bool]] = []
        while not self._is("}"):
            optional = self._accept("?")
            token = self._take()
            if token.kind not in ("name", "quoted"):
                expected = "{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}" if not fields else "IDENTIFIER"
                raise self._error(token.at, f"Syntax error: mismatched input '{token.text}' expecting {expected}")
            self._expect(":")
            fields.append((token.text.strip("`"), self._expression(), optional))
            if not self._accept(","):
                break
        self._expect("}")
        return Struct(at, name, fields)


_CONSTANTS: Final = {"true": True, "false": False, "null": None}
_STARTS: Final = (
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"
)


def _balanced(name: str, nodes: list[Node], places: list[int]) -> Node:
    """`places[i]` is where the operator before `nodes[i]` stands."""
    if len(nodes) == 1:
        return nodes[0]
    half = (len(nodes) + 1) // 2
    left, right = _balanced(name, nodes[:half], places[:half]), _balanced(name, nodes[half:], places[half:])
    return Call(places[half], name, None, [left, right])


def dotted_name(node: Node) -> str:
    """`a.b.c` when the node is nothing but names; "" else."""
    if isinstance(node, Ident):
        return node.name
    if isinstance(node, Select) and not node.test and not node.optional:
        head = dotted_name(node.operand)
        return f"{head}.{node.field}" if head else ""
    return ""
