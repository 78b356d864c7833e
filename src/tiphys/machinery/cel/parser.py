"""Text to syntax tree: a hand-written recursive-descent parser of the CEL grammar, macros included.

    Expr = Or ["?" Or ":" Expr]      Or = And {"||" And}      And = Rel {"&&" Rel}      Rel = Add {op Add}
    Add = Mul {("+" | "-") Mul}      Mul = Unary {("*" | "/" | "%") Unary}      Unary = {"!" | "-"} Member

https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tiphys.machinery.cel.ast import Call, Ident, ListOf, Literal, Macro, MapOf, Node, Select, Struct
from tiphys.machinery.cel.errors import CelSyntaxError, located
from tiphys.machinery.cel.literals import number, text_literal
from tiphys.machinery.cel.tokens import Token, tokens_of

MAX_DEPTH: Final = 50
MAX_CHARACTERS: Final = 100_000
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


def parse(source: str) -> Node:
    """The tree of an expression. Raises CelSyntaxError."""
    if len(source) > MAX_CHARACTERS:
        raise CelSyntaxError(f"expression code point size exceeds limit: size: {len(source)}, limit {MAX_CHARACTERS}")
    return _Parser(source).whole()


class _Parser:
    """What is wrong is collected as far as it can be read on after it, then told together."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens, self._problems = tokens_of(source)
        self._closers: list[str] = []
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

    def _following(self) -> Token:
        """The token after the next one."""
        return self._tokens[min(self._next + 1, len(self._tokens) - 1)]

    def _expect(self, text: str, shown: str = "") -> None:
        """Take `text`; one token too many before it or its absence is told, and read over.

        `shown`: what a list may go on with, where that is more than `text`.
        """
        if self._accept(text):
            return
        token, following = self._token, self._following()
        expected = shown or f"'{text}'"
        if token.kind != "end" and following.kind == "op" and following.text in (text, "," if shown else text):
            self._report(token.at, f"Syntax error: extraneous input '{token.text}' expecting {expected}")
            self._next += 2 if following.text == text else 1
        elif not shown and self._may_miss(text, token):
            self._report(token.at, f"Syntax error: missing '{text}' at '{token.text}'")
        else:
            raise self._error(token.at, f"Syntax error: mismatched input '{token.text}' expecting {expected}")

    def _may_miss(self, text: str, token: Token) -> bool:
        """Whether `token` could come right after `text`, so that only `text` is missing."""
        if text in ")]":
            outer = self._closers[-2:-1]
            return token.kind == "end" if not outer else token.kind == "op" and token.text == outer[0]
        return text == ":" and _starts(token)

    def _report(self, at: int, message: str) -> None:
        self._problems.append((at, message))

    def _error(self, at: int, message: str) -> CelSyntaxError:
        return CelSyntaxError(located(self._source, [*self._problems, (at, message)]))

    def _check_start(self, expected: str, closer: str = "") -> None:
        """Whether an expression begins here, or `closer` ends what surrounds it."""
        token = self._token
        if _starts(token) or (closer and self._is(closer)):
            return
        if _starts(self._following()) and token.kind != "end":
            self._report(token.at, f"Syntax error: extraneous input '{token.text}' expecting {expected}")
            self._next += 1
            return
        raise self._error(token.at, f"Syntax error: mismatched input '{token.text}' expecting {expected}")

    # --- expressions ------------------------------------------------------------------------------
    def whole(self) -> Node:
        node = self._expression()
        token = self._token
        if token.kind != "end":
            how = "extraneous" if self._following().kind == "end" else "mismatched"
            raise self._error(token.at, f"Syntax error: {how} input '{token.text}' expecting <EOF>")
        if self._problems:
            raise CelSyntaxError(located(self._source, self._problems))
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
            if following.kind == "end":
                self._report(following.at, "Syntax error: no viable alternative at input '-'")
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
                self._check_start(_INDEX_STARTS, "?")
                name = "_[?_]" if self._accept("?") else "_[_]"
                self._closers.append("]")
                node = Call(at, name, None, [node, self._expression()])
                self._expect("]")
                self._closers.pop()
            elif self._is("{") and (name := dotted_name(node)):
                node = self._struct(name)
            else:
                return node

    def _selected(self, node: Node, at: int, optional: bool) -> Node:
        token = self._take()
        if token.kind == "quoted":
            raise self._error(token.at, "unsupported syntax: '`'")
        if token.text in _CONSTANTS and token.kind == "name":
            raise self._error(token.at, f"Syntax error: mismatched input '{token.text}' expecting IDENTIFIER")
        if token.kind != "name" or token.text == "in":
            shown = "." if token.kind == "end" else f".{token.text}"
            self._report(token.at, f"Syntax error: no viable alternative at input '{shown}'")
            if token.text == "in" and token.kind == "name":
                self._check_start(_STARTS)
            raise CelSyntaxError(located(self._source, self._problems))
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
            detail = "is not an identifier" if macro in ("map", "filter") else "must be a simple name"
            raise self._error(node.at, f"argument {detail}")
        return node.name

    def _arguments(self, end: str) -> list[Node]:
        self._closers.append(end)
        self._check_start(_CALL_STARTS, end)
        found: list[Node] = []
        if not self._is(end):
            found.append(self._expression())
            while self._accept(","):
                found.append(self._expression())
        self._expect(end)
        self._closers.pop()
        return found

    def _primary(self) -> Node:
        if not _starts(self._token):
            return self._unstarted()
        token = self._take()
        match token.kind:
            case "number":
                return Literal(token.at, number(self._source, token.at, token.text))
            case "string":
                return Literal(token.at, text_literal(self._source, token.at, token.text))
            case "name":
                return self._named(token)
            case "op" if token.text == "(":
                self._closers.append(")")
                node = self._expression()
                self._expect(")")
                self._closers.pop()
                return node
            case "op" if token.text == "[":
                return self._list(token.at)
            case "op" if token.text == "{":
                return self._map(token.at)
            case "op" if token.text == "." and self._token.kind == "name":
                return self._named(self._take())
        # Only a dot is left, with no name after it.
        token = self._token
        raise self._error(token.at, f"Syntax error: no viable alternative at input '.{token.text}'")

    def _unstarted(self) -> Node:
        """Where an expression should begin is something else."""
        token = self._token
        before = self._tokens[self._next - 1].text if self._next else ""
        extraneous = _starts(self._following()) if token.kind != "end" else before == "!"
        how = "extraneous" if extraneous else "mismatched"
        self._report(token.at, f"Syntax error: {how} input '{token.text}' expecting {_STARTS}")
        if extraneous and token.kind != "end":
            self._next += 1
            return self._unary()
        if token.text in _BINARY and not extraneous:
            return Ident(token.at, "")
        raise CelSyntaxError(located(self._source, self._problems))

    def _named(self, token: Token) -> Node:
        name = token.text
        if name in _CONSTANTS:
            return Literal(token.at, _CONSTANTS[name])
        if name in RESERVED:
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
        self._closers.append("]")
        if not self._is("?"):
            self._check_start(_LIST_STARTS, "]")
        while not self._is("]"):
            if self._accept("?"):
                optional.add(len(items))
            items.append(self._expression())
            if not self._accept(","):
                self._expect("]", "{']', ','}")
                break
            if not _starts(self._token) and not self._is("?"):
                self._expect("]")
                break
        else:
            self._take()
        self._closers.pop()
        return ListOf(at, items, frozenset(optional))

    def _map(self, at: int) -> Node:
        entries: list[tuple[Node, Node, bool]] = []
        self._closers.append("}")
        if not self._is("?"):
            self._check_start(_MAP_STARTS, "}")
        while not self._is("}"):
            optional = self._accept("?")
            key = self._expression()
            self._expect(":")
            entries.append((key, self._expression(), optional))
            if not self._accept(","):
                self._expect("}", "{'}', ','}")
                break
        else:
            self._take()
        self._closers.pop()
        return MapOf(at, entries)

    def _struct(self, name: str) -> Node:
        at = self._take().at
        fields: list[tuple[str, Node, bool]] = []
        self._closers.append("}")
        while not self._is("}"):
            optional = self._accept("?")
            token = self._take()
            if token.kind not in ("name", "quoted"):
                expected = "{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}" if not fields else "IDENTIFIER"
                raise self._error(token.at, f"Syntax error: mismatched input '{token.text}' expecting {expected}")
            self._expect(":")
            fields.append((token.text.strip("`"), self._expression(), optional))
            if not self._accept(","):
                self._expect("}", "{'}', ','}")
                break
        else:
            self._take()
        self._closers.pop()
        return Struct(at, name, fields)


_CONSTANTS: Final = {"true": True, "false": False, "null": None}
_TERMINALS: Final = "'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"
_STARTS: Final = "{'[', '{', '(', '.', '-', '!', " + _TERMINALS
_CALL_STARTS: Final = "{'[', '{', '(', ')', '.', '-', '!', " + _TERMINALS
_INDEX_STARTS: Final = "{'[', '{', '(', '.', '-', '!', '?', " + _TERMINALS
_LIST_STARTS: Final = "{'[', ']', '{', '(', '.', ',', '-', '!', '?', " + _TERMINALS
_MAP_STARTS: Final = "{'[', '{', '}', '(', '.', ',', '-', '!', '?', " + _TERMINALS
_BINARY: Final = frozenset(["*", "/", "%", "+", "&&", "||", *_RELATIONS])


def _starts(token: Token) -> bool:
    """Whether an expression can begin with `token`."""
    if token.kind == "op":
        return token.text in ("[", "{", "(", ".", "-", "!")
    return token.kind in ("number", "string") or (token.kind == "name" and token.text != "in")


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
