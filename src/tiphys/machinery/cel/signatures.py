"""Every function and method an expression may call: its overloads, for the checker.

`string.contains(string) -> bool` is a method, `size(string) -> int` a function; a capital letter is any type.
https://kubernetes.io/docs/reference/using-api/cel/#cel-options-language-features-and-libraries
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final, NamedTuple

from tiphys.machinery.cel.types import Type, split_arguments

_TEXT: Final = """
!_(bool) -> bool
-_(int) -> int
-_(double) -> double
_&&_(bool, bool) -> bool
_||_(bool, bool) -> bool
_?_:_(bool, A, A) -> A
_==_(A, A) -> bool
_!=_(A, A) -> bool
_+_(int, int) -> int
_+_(uint, uint) -> uint
_+_(double, double) -> double
_+_(string, string) -> string
_+_(bytes, bytes) -> bytes
_+_(list(A), list(A)) -> list(A)
_+_(timestamp, duration) -> timestamp
_+_(duration, timestamp) -> timestamp
_+_(duration, duration) -> duration
_-_(int, int) -> int
_-_(uint, uint) -> uint
_-_(double, double) -> double
_-_(timestamp, timestamp) -> duration
_-_(timestamp, duration) -> timestamp
_-_(duration, duration) -> duration
_*_(int, int) -> int
_*_(uint, uint) -> uint
_*_(double, double) -> double
_/_(int, int) -> int
_/_(uint, uint) -> uint
_/_(double, double) -> double
_%_(int, int) -> int
_%_(uint, uint) -> uint
@in(A, list(A)) -> bool
@in(A, map(A, B)) -> bool
_[_](list(A), int) -> A
_[_](map(A, B), A) -> B
_[_](optional_type(list(A)), int) -> optional_type(A)
_[_](optional_type(map(A, B)), A) -> optional_type(B)
_[?_](list(A), int) -> optional_type(A)
_[?_](map(A, B), A) -> optional_type(B)
_[?_](optional_type(list(A)), int) -> optional_type(A)
_[?_](optional_type(map(A, B)), A) -> optional_type(B)
size(string) -> int
size(bytes) -> int
size(list(A)) -> int
size(map(A, B)) -> int
string.size() -> int
bytes.size() -> int
list(A).size() -> int
map(A, B).size() -> int
string.contains(string) -> bool
string.startsWith(string) -> bool
string.endsWith(string) -> bool
string.matches(string) -> bool
matches(string, string) -> bool
int(int) -> int
int(uint) -> int
int(double) -> int
int(string) -> int
int(timestamp) -> int
uint(uint) -> uint
uint(int) -> uint
uint(double) -> uint
uint(string) -> uint
double(double) -> double
double(int) -> double
double(uint) -> double
double(string) -> double
string(string) -> string
string(bool) -> string
string(int) -> string
string(uint) -> string
string(double) -> string
string(bytes) -> string
string(timestamp) -> string
string(duration) -> string
string(ip) -> string
string(cidr) -> string
bytes(bytes) -> bytes
bytes(string) -> bytes
bool(bool) -> bool
bool(string) -> bool
timestamp(string) -> timestamp
timestamp(timestamp) -> timestamp
timestamp(int) -> timestamp
duration(string) -> duration
duration(duration) -> duration
type(A) -> type(A)
dyn(A) -> dyn
timestamp.getFullYear() -> int
timestamp.getMonth() -> int
timestamp.getDayOfYear() -> int
timestamp.getDayOfMonth() -> int
timestamp.getDate() -> int
timestamp.getDayOfWeek() -> int
timestamp.getHours() -> int
timestamp.getMinutes() -> int
timestamp.getSeconds() -> int
timestamp.getMilliseconds() -> int
timestamp.getFullYear(string) -> int
timestamp.getMonth(string) -> int
timestamp.getDayOfYear(string) -> int
timestamp.getDayOfMonth(string) -> int
timestamp.getDate(string) -> int
timestamp.getDayOfWeek(string) -> int
timestamp.getHours(string) -> int
timestamp.getMinutes(string) -> int
timestamp.getSeconds(string) -> int
timestamp.getMilliseconds(string) -> int
duration.getHours() -> int
duration.getMinutes() -> int
duration.getSeconds() -> int
duration.getMilliseconds() -> int
string.charAt(int) -> string
string.indexOf(string) -> int
string.indexOf(string, int) -> int
string.lastIndexOf(string) -> int
string.lastIndexOf(string, int) -> int
string.lowerAscii() -> string
string.upperAscii() -> string
string.replace(string, string) -> string
string.replace(string, string, int) -> string
string.split(string) -> list(string)
string.split(string, int) -> list(string)
string.substring(int) -> string
string.substring(int, int) -> string
string.trim() -> string
string.format(list(dyn)) -> string
strings.quote(string) -> string
list(string).join() -> string
list(string).join(string) -> string
string.find(string) -> string
string.findAll(string) -> list(string)
string.findAll(string, int) -> list(string)
list(A).isSorted() -> bool
list(int).sum() -> int
list(uint).sum() -> uint
list(double).sum() -> double
list(duration).sum() -> duration
list(A).min() -> A
list(A).max() -> A
list(A).indexOf(A) -> int
list(A).lastIndexOf(A) -> int
list(A).distinct() -> list(A)
list(list(A)).flatten() -> list(A)
list(dyn).flatten(int) -> list(dyn)
list(A).reverse() -> list(A)
list(A).slice(int, int) -> list(A)
list(A).sort() -> list(A)
list(A).first() -> optional_type(A)
list(A).last() -> optional_type(A)
lists.range(int) -> list(int)
sets.contains(list(A), list(A)) -> bool
sets.equivalent(list(A), list(A)) -> bool
sets.intersects(list(A), list(A)) -> bool
optional.of(A) -> optional_type(A)
optional.ofNonZeroValue(A) -> optional_type(A)
optional.unwrap(list(optional_type(A))) -> list(A)
list(optional_type(A)).unwrapOpt() -> list(A)
optional.none() -> optional_type(A)
optional_type(A).hasValue() -> bool
optional_type(A).value() -> A
optional_type(A).or(optional_type(A)) -> optional_type(A)
optional_type(A).orValue(A) -> A
quantity(string) -> quantity
isQuantity(string) -> bool
sign(quantity) -> int
quantity.isInteger() -> bool
quantity.asInteger() -> int
quantity.asApproximateFloat() -> double
quantity.add(quantity) -> quantity
quantity.add(int) -> quantity
quantity.sub(quantity) -> quantity
quantity.sub(int) -> quantity
quantity.isGreaterThan(quantity) -> bool
quantity.isLessThan(quantity) -> bool
quantity.compareTo(quantity) -> int
url(string) -> url
isURL(string) -> bool
url.getScheme() -> string
url.getHost() -> string
url.getHostname() -> string
url.getPort() -> string
url.getEscapedPath() -> string
url.getQuery() -> map(string, list(string))
ip(string) -> ip
isIP(string) -> bool
ip.isCanonical(string) -> bool
ip.family() -> int
ip.isUnspecified() -> bool
ip.isLoopback() -> bool
ip.isLinkLocalMulticast() -> bool
ip.isLinkLocalUnicast() -> bool
ip.isGlobalUnicast() -> bool
cidr(string) -> cidr
isCIDR(string) -> bool
cidr.containsIP(string) -> bool
cidr.containsIP(ip) -> bool
cidr.containsCIDR(string) -> bool
cidr.containsCIDR(cidr) -> bool
cidr.ip() -> ip
cidr.masked() -> cidr
cidr.prefixLength() -> int
format.named(string) -> optional_type(format)
format.dns1123Label() -> format
format.dns1123Subdomain() -> format
format.dns1035Label() -> format
format.qualifiedName() -> format
format.dns1123LabelPrefix() -> format
format.dns1123SubdomainPrefix() -> format
format.dns1035LabelPrefix() -> format
format.labelValue() -> format
format.uri() -> format
format.uuid() -> format
format.byte() -> format
format.date() -> format
format.datetime() -> format
format.validate(string) -> optional_type(list(string))
semver(string) -> semver
semver(string, bool) -> semver
isSemver(string) -> bool
isSemver(string, bool) -> bool
semver.major() -> int
semver.minor() -> int
semver.patch() -> int
semver.isGreaterThan(semver) -> bool
semver.isLessThan(semver) -> bool
semver.compareTo(semver) -> int
authorizer.path(string) -> pathCheck
authorizer.group(string) -> groupCheck
authorizer.serviceAccount(string, string) -> authorizer
authorizer.requestResource -> resourceCheck
pathCheck.check(string) -> decision
groupCheck.resource(string) -> resourceCheck
resourceCheck.subresource(string) -> resourceCheck
resourceCheck.namespace(string) -> resourceCheck
resourceCheck.name(string) -> resourceCheck
resourceCheck.fieldSelector(string) -> resourceCheck
resourceCheck.labelSelector(string) -> resourceCheck
resourceCheck.check(string) -> decision
decision.allowed() -> bool
decision.reason() -> string
decision.errored() -> bool
decision.error() -> string
jsonpatch.escapeKey(string) -> string
"""
# Namespaces of functions: `sets.contains(a, b)` is no method of a variable `sets`.
NAMESPACES: Final = frozenset({"sets", "optional", "lists", "strings", "format", "jsonpatch", "ip"})
_ORDERED: Final = ("int", "uint", "double", "bool", "string", "bytes", "timestamp", "duration")


class Overload(NamedTuple):
    """One signature; of a method the first argument is what it is called on."""

    args: tuple[Type, ...]
    result: Type


def _load() -> tuple[dict[str, list[Overload]], dict[str, list[Overload]]]:
    functions: dict[str, list[Overload]] = defaultdict(list)
    methods: dict[str, list[Overload]] = defaultdict(list)
    for line in _TEXT.strip().splitlines():
        head, _, result = line.rpartition(" -> ")
        if not head.endswith(")"):
            continue
        open_at = _open(head)
        name, args = head[:open_at], tuple(Type.parse(one) for one in split_arguments(head[open_at + 1 : -1]))
        receiver, dot, method = name.rpartition(".")
        if not dot:
            functions[name].append(Overload(args, Type.parse(result)))
            continue
        if receiver in NAMESPACES:
            functions[name].append(Overload(args, Type.parse(result)))
        if receiver not in NAMESPACES or receiver in ("format", "ip"):
            methods[method].append(Overload((Type.parse(receiver), *args), Type.parse(result)))
    for operator in ("_<_", "_<=_", "_>_", "_>=_"):
        for kind in _ORDERED:
            functions[operator].append(Overload((Type.parse(kind),) * 2, Type.parse("bool")))
        for one in ("int", "uint", "double"):
            for other in ("int", "uint", "double"):
                if one != other:
                    functions[operator].append(Overload((Type.parse(one), Type.parse(other)), Type.parse("bool")))
    return dict(functions), dict(methods)


def _open(head: str) -> int:
    """Where the parenthesis that the last character closes is opened."""
    depth = 0
    for i in range(len(head) - 1, -1, -1):
        depth += (head[i] == ")") - (head[i] == "(")
        if not depth:
            return i
    raise ValueError(head)


FUNCTIONS, METHODS = _load()
TYPE_NAMES: Final = {
    **{name: Type.parse(name) for name in ("bool", "int", "uint", "double", "string", "bytes", "dyn")},
    "list": Type.parse("list(dyn)"),
    "map": Type.parse("map(dyn, dyn)"),
    "null_type": Type.parse("null"),
    "type": Type.parse("type(dyn)"),
    "google.protobuf.Timestamp": Type.parse("timestamp"),
    "google.protobuf.Duration": Type.parse("duration"),
}
