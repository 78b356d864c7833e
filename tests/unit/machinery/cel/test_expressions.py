"""Expressions: values, errors, types, costs."""

from __future__ import annotations

from typing import Any

import pytest

from tiphys.machinery.cel.errors import CelSyntaxError, CostError, EvalError
from tiphys.machinery.cel.parser import parse
from tiphys.machinery.cel.program import compile_expression
from tiphys.machinery.cel.regex import compile_pattern
from tiphys.machinery.cel.types import DYN, INT, STRING, Type, list_of, map_of

SELF = Type(
    "object",
    name="selfType",
    fields={"n": INT, "s": STRING, "items": list_of(STRING), "counts": map_of(STRING, INT), "t": Type("timestamp")},
)
VARIABLES = {"self": SELF, "any": DYN}
VALUES: dict[str, Any] = {
    "self": {"n": 5, "s": "abc", "items": ["a", "bb"], "counts": {"x": 1, "y": 2}},
    "any": {"deep": [1, {"k": "v"}]},
}


def evaluate(source: str) -> Any:
    return compile_expression(source, VARIABLES).evaluate(VALUES)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("1 + 2 * 3 - 4 / 2 % 3", 5),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("1.5 + 2.0 == 3.5", True),
        ("dyn(1) == 1.0 && dyn(true) != 1", True),
        ("'a' + \"b\" + r'\\n' + '\\u00e9'", "ab\\né"),
        ("b'ab'.size() + 'né'.size()", 4),
        ("self.n > 3 ? 'big' : 'small'", "big"),
        ("false && 1 / 0 > 0", False),
        ("1 / 0 > 0 || true", True),
        ("has(self.s) && !has(self.t)", True),
        ("self.items.all(i, i.size() < 3)", True),
        ("self.items.exists_one(i, i == 'a')", True),
        ("self.counts.exists(k, self.counts[k] == 2)", True),
        ("self.items.map(i, i.size() > 1, i + '!')", ["bb!"]),
        ("self.items.filter(i, i != 'a')", ["bb"]),
        ("self.items.all(i, v, self.items[i] == v)", True),
        ("self.counts.transformMap(k, v, v * 10)", {"x": 10, "y": 20}),
        ("self.counts.transformList(k, v, v)", [1, 2]),
        ("[3, 1, 2].sortBy(x, -x)", [3, 2, 1]),
        ("optional.unwrap([optional.of(1), optional.none()])", [1]),
        ("[[1], [2, 3]].flatten()", [1, 2, 3]),
        ("sign(quantity('-1'))", -1),
        ("string(1234567.0) + ' ' + string(-0.0) + ' ' + string(0.00001)", "1.234567e+06 -0 1e-05"),
        (
            "'%s %d %.1f %e %x'.format([['a'], 3, 1234.56, 1234.5, 'hi'])",
            '["a"] 3 1,234.6 1.234500×10⁰³ 6869',
        ),
        ("'%s'.format([{'b': duration('1s'), 'a': null}])", '{"a":null, "b":duration("1s")}'),
        ("'abc'.indexOf('a', 9)", -1),
        ("timestamp('2024-01-02T03:04:05+02:00') == timestamp('2024-01-02T01:04:05Z')", True),
        ("'a' in self.items && 'x' in self.counts", True),
        ("any.deep[1].k", "v"),
        ("any.?nope.orValue('d')", "d"),
        ("self.?t.hasValue()", False),
        ("optional.of(3).optMap(x, x + 1).value()", 4),
        ("[1, ?optional.none(), 3]", [1, 3]),
        ("{'a': 1, ?'b': optional.none()}", {"a": 1}),
        ("'%s=%d %.2f %x'.format(['k', 3, 1.5, 255])", "k=3 1.50 ff"),
        ("'a,b,c'.split(',', 2)", ["a", "b,c"]),
        ("'Hello'.substring(1, 3).upperAscii()", "EL"),
        ("'x1y22'.findAll('[0-9]+')", ["1", "22"]),
        ("'abc'.matches('^a.c$')", True),
        ("[3, 1, 2].max() + [1, 2].sum()", 6),
        ("[1, 2, 2].isSorted() && [1, 2, 2].indexOf(2) == 1", True),
        ("sets.contains([1, 2, 3], [2]) && !sets.intersects([1], [2])", True),
        ("quantity('1Gi').isGreaterThan(quantity('900Mi')) && quantity('1k').asInteger() == 1000", True),
        ("quantity('1').add(quantity('500m')).compareTo(quantity('1.5'))", 0),
        ("isURL('https://a.b:80/c?d=e') && url('https://a.b:80/c').getPort() == '80'", True),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && ip('::1').isLoopback()", True),
        ("semver('1.2.3').isLessThan(semver('v1.10', true))", True),
        ("format.dns1123Label().validate('ok').hasValue()", False),
        ("timestamp('2024-02-29T12:00:00Z').getFullYear()", 2024),
        ("duration('90m').getHours() == 1 && string(duration('90s')) == '90s'", True),
        ("timestamp('2024-01-01T00:00:00Z') + duration('1h') > timestamp('2024-01-01T00:30:00Z')", True),
        ("type(1) == int && type('') == string", True),
        ("int('42') + int(1.9) + int(uint(3))", 46),
    ],
)
def test_value(source: str, value: Any) -> None:
    assert evaluate(source) == value


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", "division by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("any.nope", "no such key: nope"),
        ("self.items[7]", "index out of bounds: 7"),
        ("dyn('a') + dyn(1)", "no such overload"),
        ("optional.none().value()", "optional.none() dereference"),
        ("int(dyn('x'))", "type conversion error from 'string' to 'int'"),
        ("dyn(1).size() == 1", "no such overload: size"),
        ("semver('1.2.x')", 'Invalid character(s) found in patch number "x"'),
    ],
)
def test_run_time_error(source: str, message: str) -> None:
    with pytest.raises(EvalError) as error:
        evaluate(source)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("self.x", "ERROR: <input>:1:5: undefined field 'x'\n | self.x\n | ....^"),
        ("y", "ERROR: <input>:1:1: undeclared reference to 'y' (in container '')\n | y\n | ^"),
        (
            "self.n == 'a'",
            (
                "ERROR: <input>:1:8: found no matching overload for '_==_' applied to '(int, string)'\n"
                " | self.n == 'a'\n | .......^"
            ),
        ),
        ("has(self)", "ERROR: <input>:1:5: invalid argument to has() macro\n | has(self)\n | ....^"),
        ("1 2", "ERROR: <input>:1:3: Syntax error: extraneous input '2' expecting <EOF>\n | 1 2\n | ..^"),
    ],
)
def test_refused(source: str, message: str) -> None:
    with pytest.raises(CelSyntaxError) as error:
        compile_expression(source, VARIABLES)
    assert str(error.value) == message


def test_cost_is_limited() -> None:
    program = compile_expression("any.all(x, any.all(y, any.all(z, x == y || y == z || true)))", VARIABLES)
    with pytest.raises(CostError):
        program.evaluate({"any": list(range(200))})


def test_variables_are_given_back() -> None:
    program = compile_expression("any.exists(any, any == 2) && any.size() == 3", VARIABLES)
    assert program.evaluate({"any": [1, 2, 3]}) is True


@pytest.mark.parametrize(
    "source",
    [
        "any.value()",
        "any.matches('a')",
        "'a'.split(any)",
        "any.min()",
        "any.masked()",
        "[?dyn(any)]",
        "!any",
        "any ? 1 : 2",
    ],
)
@pytest.mark.parametrize("value", [None, 1, 1.5, {"a": 1}])
def test_dynamic_values_of_other_types(source: str, value: Any) -> None:
    with pytest.raises(EvalError, match="no such overload"):
        compile_expression(source, VARIABLES).evaluate({"any": value})


@pytest.mark.parametrize("source", ["(" * 3000 + "1" + ")" * 3000, "!" * 5000 + "true", "1" + "+1" * 20000])
def test_too_deep(source: str) -> None:
    with pytest.raises(CelSyntaxError, match="recursion limit exceeded"):
        compile_expression(source, VARIABLES)


def test_long_chains_are_not_deep() -> None:
    assert evaluate(" || ".join(["self.n == 1"] * 2000 + ["true"])) is True


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^a$", "a\n", False),
        ("[[:alpha:]]+", "1b", True),
        (r"^\pL+$", "é", True),
        (r"^\d$", "٣", False),
        ("a\\z", "ba", True),
        ("[a&&b]", "&", True),
    ],
)
def test_regular_expressions_are_of_re2(pattern: str, text: str, found: bool) -> None:
    assert (compile_pattern(pattern).search(text) is not None) is found


@pytest.mark.parametrize("pattern", ["(?=a)", "(a)\\1", "(", "a{99999999999}", "[[:nope:]]"])
def test_other_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="error parsing regexp"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    ("source", "messages"),
    [
        ("", ["1:0: Syntax error: mismatched input '<EOF>' expecting START"]),
        (
            "*",
            [
                "1:1: Syntax error: mismatched input '*' expecting START",
                "1:2: Syntax error: mismatched input '<EOF>' expecting START",
            ],
        ),
        ("a + + b", ["1:5: Syntax error: extraneous input '+' expecting START"]),
        ("a b c", ["1:3: Syntax error: mismatched input 'b' expecting <EOF>"]),
        ("(a", ["1:3: Syntax error: missing ')' at '<EOF>'"]),
        ("((a", ["1:4: Syntax error: mismatched input '<EOF>' expecting ')'"]),
        ("a[1 2]", ["1:5: Syntax error: extraneous input '2' expecting ']'"]),
        ("[1,,2]", ["1:4: Syntax error: mismatched input ',' expecting ']'"]),
        ("{1 2}", ["1:4: Syntax error: missing ':' at '2'"]),
        ("../x", ["1:2: Syntax error: no viable alternative at input '..'"]),
        ("f(1,)", ["1:5: Syntax error: mismatched input ')' expecting START"]),
        (
            "a & b",
            [
                "1:3: Syntax error: token recognition error at: '& '",
                "1:5: Syntax error: extraneous input 'b' expecting <EOF>",
            ],
        ),
        (
            "'abc",
            [
                "1:1: Syntax error: token recognition error at: ''abc'",
                "1:5: Syntax error: mismatched input '<EOF>' expecting START",
            ],
        ),
        ("b'\\u1234'", ["1:1: unable to unescape string"]),
    ],
)
def test_all_that_is_wrong_with_a_text_is_told(source: str, messages: list[str]) -> None:
    starts = (
        "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, "
        "IDENTIFIER}"
    )
    with pytest.raises(CelSyntaxError) as raised:
        parse(source)
    told = [line for line in str(raised.value).replace(starts, "START").splitlines() if line.startswith("ERROR")]
    assert told == [f"ERROR: <input>:{message}" for message in messages]
