"""What Kubernetes adds to the language: quantities, URLs, addresses, formats, versions, the authorizer, JSON pointers.

https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-cel-libraries
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import total_ordering
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from tiphys.machinery import formats
from tiphys.machinery.cel.errors import EvalError
from tiphys.machinery.cel.values import INT_MAX, NONE, Optional, checked_int, no_overload
from tiphys.machinery.quantity import Quantity

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Interface | ipaddress.IPv6Interface


# --- quantity -------------------------------------------------------------------------------------
def _quantity(text: Any) -> Quantity:
    if isinstance(text, Quantity):
        return text
    if not isinstance(text, str):
        raise no_overload()
    try:
        return Quantity.parse(text)
    except ValueError as error:
        raise EvalError(str(error)) from None


def _is(parse: Callable[..., Any]) -> Callable[..., bool]:
    def test(*args: Any) -> bool:
        try:
            parse(*args)
        except EvalError:
            return False
        return True

    return test


def _amount(value: Any) -> Decimal:
    return value.amount if isinstance(value, Quantity) else Decimal(value)


def _is_integer(value: Quantity) -> bool:
    """Whether it is a whole number that an int has room for."""
    return value.amount == value.amount.to_integral_value() and abs(value.amount) <= INT_MAX


def _as_integer(value: Quantity) -> int:
    if not _is_integer(value):
        raise EvalError("cannot convert value to integer")
    return checked_int(int(value.amount))


def _compare(a: Any, b: Any) -> int:
    if type(a) is not type(b):
        raise no_overload()
    return int(a > b) - int(a < b)


def _plus(value: Quantity, other: Any, sign: int) -> Quantity:
    amount = _amount(other)
    return Quantity(value.amount + sign * amount, value.format)


# --- url ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Url:
    """A URL with its parts."""

    text: str
    parts: SplitResult
    cel_type = "kubernetes.URL"


_BAD_URL: Final = "URL parse error during conversion from string: "


def _url(text: Any) -> Url:
    """An absolute URI or an absolute path, as Go's url.ParseRequestURI takes them."""
    if not isinstance(text, str):
        raise no_overload()
    problem = f'{_BAD_URL}parse "{text}": '
    if not text:
        raise EvalError(problem + "empty url")
    if not text.startswith("/") and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text) and not text.startswith(":"):
        raise EvalError(problem + "invalid URI for request")
    if re.search(r"[\x00-\x20\x7f]", text):
        raise EvalError(
            problem + "invalid control character in URL"
            if re.search(r"[\x00-\x1f\x7f]", text)
            else problem + 'invalid character " " in host name'
        )
    try:
        parts = urlsplit(text)
        _ = parts.port  # looks at it, and may refuse
    except ValueError:
        unclosed = "[" in text and "]" not in text
        raise EvalError(problem + ("missing ']' in host" if unclosed else "invalid port or host")) from None
    if text.startswith(":"):
        raise EvalError(problem + "missing protocol scheme")
    if not text.startswith("/") and not parts.scheme:
        raise EvalError(problem + "invalid URI for request")
    bad = re.search(r"%(?![0-9A-Fa-f]{2}).{0,2}", parts.path)
    if bad is not None:
        raise EvalError(f'{problem}invalid URL escape "{bad[0]}"')
    return Url(text, parts)


def _host(url: Url) -> str:
    return url.parts.netloc.rpartition("@")[2]


def _hostname(url: Url) -> str:
    host = _host(url)
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


# --- ip and cidr ----------------------------------------------------------------------------------
def _ip(text: Any) -> Address:
    if not isinstance(text, str):
        raise no_overload()
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        problem = f'ParseAddr("{text}"): {_address_problem(text)}'
        raise EvalError(f'IP Address "{text}" parse error during conversion from string: {problem}') from None
    if "%" in text:
        raise EvalError(f'IP address "{text}" with zone value is not allowed')
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        raise EvalError(f'IPv4-mapped IPv6 address "{text}" is not allowed')
    return found


def _cidr(text: Any) -> Network:
    if not isinstance(text, str):
        raise no_overload()
    address, slash, bits = text.rpartition("/")
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        found = None
    if found is None or not bits.isdigit() or (len(bits) > 1 and bits[0] == "0") or int(bits) > found.max_prefixlen:
        problem = f'{_BAD_NETWORK}netip.ParsePrefix("{text}"): '
        if not slash:
            problem += "no '/'"
        elif found is None:
            problem += f'ParseAddr("{address}"): {_address_problem(address)}'
        elif not bits.isdigit() or (len(bits) > 1 and bits[0] == "0"):
            problem += f'bad bits after slash: "{bits}"'
        else:
            problem += "prefix length out of range"
        raise EvalError(_BAD_NETWORK + problem)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        raise EvalError(f'{_BAD_NETWORK}IPv4-mapped IPv6 address "{text}" is not allowed')
    return ipaddress.ip_interface(text)


_BAD_NETWORK: Final = "network address parse error during conversion from string: "


def _address_problem(text: str) -> str:
    """Why a text is no address."""
    parts = text.split(".")
    if len(parts) == 4 and all(part.isdigit() for part in parts):
        if any(len(part) > 1 and part[0] == "0" for part in parts):
            return "IPv4 field has octet with leading zero"
        return "IPv4 field has value >255"
    if text.count("::") > 1:
        return f'multiple :: in address (at "{text[text.rindex("::") + 1 :]}")'
    return "unable to parse IP"


def _contains_ip(network: Network, address: Any) -> bool:
    found = _ip(address) if isinstance(address, str) else address
    return found.version == network.version and found in network.network


def _contains_cidr(network: Network, other: Any) -> bool:
    found = _cidr(other) if isinstance(other, str) else other
    if found.version != network.version or found.network.prefixlen < network.network.prefixlen:
        return False
    return found.network.network_address in network.network


def _global_unicast(address: Address) -> bool:
    return not (
        address.is_unspecified
        or address.is_loopback
        or address.is_multicast
        or address.is_link_local
        or str(address) == "255.255.255.255"
    )


def _link_local_multicast(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return address in ipaddress.ip_network("224.0.0.0/24")
    return address.is_multicast and address.packed[1] & 0x0F == 2


def _is_canonical(text: str) -> bool:
    return str(_ip(text)) == text


# --- formats --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Format:
    """A named form of text; `errors` says what is wrong with one."""

    name: str
    errors: Callable[[str], list[str]]
    cel_type = "kubernetes.NamedFormat"


def _pattern(expression: str, message: str) -> Callable[[str], list[str]]:
    found = re.compile(expression)
    return lambda text: [] if found.fullmatch(text) else [message]


def _byte(text: str) -> list[str]:
    if re.fullmatch(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", text):
        return []
    return ["invalid base64"]


def _uri(text: str) -> list[str]:
    try:
        _url(text)
    except EvalError as error:
        return [str(error).removeprefix(_BAD_URL)]
    return []


def _before_dash(text: str) -> str:
    """A prefix of a name may end with a dash, as what follows will end the name."""
    return text[:-2] + "a" if len(text) > 1 and text.endswith("-") else text


_FORMATS: Final = {
    "dns1123Label": formats.dns1123_label,
    "dns1123Subdomain": formats.dns1123_subdomain,
    "dns1035Label": formats.dns1035_label,
    "qualifiedName": lambda text: [
        one.replace("a qualified name", "a valid label key", 1) for one in formats.qualified_name(text)
    ],
    "dns1123LabelPrefix": lambda text: formats.dns1123_label(_before_dash(text)),
    "dns1123SubdomainPrefix": lambda text: formats.dns1123_subdomain(_before_dash(text)),
    "dns1035LabelPrefix": lambda text: formats.dns1035_label(_before_dash(text)),
    "labelValue": lambda text: list(formats.label_value(text)),
    "uri": _uri,
    "uuid": _pattern(
        r"(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", "does not match the UUID format"
    ),
    "byte": _byte,
    "date": _pattern(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", "invalid date"),
    "datetime": _pattern(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", "invalid datetime"),
}


def _named_format(name: str) -> Optional:
    errors = _FORMATS.get(name)
    return Optional(Format(name, errors)) if errors is not None else NONE


def _validate(form: Format, text: str) -> Optional:
    errors = form.errors(text)
    return Optional(errors) if errors else NONE


# --- semantic versions ----------------------------------------------------------------------------
_SEMVER: Final = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z.-]+))?"
)


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Semver:
    """A version of https://semver.org."""

    numbers: tuple[int, int, int]
    pre: tuple[str, ...] = ()
    cel_type = "kubernetes.Semver"

    def _order(self) -> tuple[Any, ...]:
        pre = tuple((0, int(one), "") if one.isdigit() else (1, 0, one) for one in self.pre)
        return (self.numbers, not self.pre, pre)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Semver) and self._order() == other._order()

    def __hash__(self) -> int:
        return hash(self._order())

    def __lt__(self, other: Semver) -> bool:
        return self._order() < other._order()


def semver(text: str, normalize: bool = False) -> Semver:
    """A version from its text. EvalError."""
    if not isinstance(text, str):
        raise no_overload()
    if normalize:
        head, mark, tail = re.match(r"v?([^-+]*)([-+]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        parts = [part.lstrip("0") or "0" if part.isdigit() else part for part in head.split(".")]
        text = ".".join([*parts, *["0"] * (3 - len(parts))]) + mark + tail
    match = _SEMVER.fullmatch(text)
    if match is None:
        raise EvalError(_version_problem(text))
    numbers = (int(match[1]), int(match[2]), int(match[3]))
    return Semver(numbers, tuple(match[4].split(".")) if match[4] else ())


def _version_problem(text: str) -> str:
    """Why a text is no version."""
    if not text:
        return "Version string empty"
    numbers = re.split(r"[-+]", text, maxsplit=1)[0].split(".", 2)
    if len(numbers) < 3:
        return "No Major.Minor.Patch elements found"
    for name, number in zip(("Major", "Minor", "Patch"), numbers, strict=True):
        if not re.fullmatch("[0-9]+", number):
            return f'Invalid character(s) found in {name.lower()} number "{number}"'
        if len(number) > 1 and number[0] == "0":
            return f'{name} number must not contain leading zeroes "{number}"'
    return "Prerelease is empty" if re.search(r"-(\+|$)", text) else "Build meta data is empty"


def _escape_key(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _either(of_quantity: Callable[..., Any], of_other: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, *rest: of_quantity(value, *rest) if isinstance(value, Quantity) else of_other(value, *rest)


def _on(name: str) -> Callable[..., Any]:
    """A method that the value itself has (the authorizer's checks)."""

    def call(value: Any, *args: Any) -> Any:
        method = getattr(value, f"cel_{name}", None)
        if method is None:
            raise no_overload()
        return method(*args)

    return call


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "quantity": _quantity,
    "isQuantity": _is(_quantity),
    "sign": lambda value: value.sign(),
    "url": _url,
    "isURL": _is(_url),
    "ip": _ip,
    "isIP": _is(_ip),
    "ip.isCanonical": _is_canonical,
    "cidr": _cidr,
    "isCIDR": _is(_cidr),
    "semver": semver,
    "isSemver": _is(semver),
    "format.named": _named_format,
    **{f"format.{name}": (lambda found: lambda: found)(Format(name, errors)) for name, errors in _FORMATS.items()},
    "jsonpatch.escapeKey": _escape_key,
}
METHODS: Final[dict[str, Callable[..., Any]]] = {
    "isInteger": _is_integer,
    "asInteger": _as_integer,
    "asApproximateFloat": lambda value: float(value.amount),
    "add": lambda value, other: _plus(value, other, 1),
    "sub": lambda value, other: _plus(value, other, -1),
    "isGreaterThan": lambda a, b: _compare(a, b) > 0,
    "isLessThan": lambda a, b: _compare(a, b) < 0,
    "compareTo": _compare,
    "getScheme": lambda url: url.parts.scheme,
    "getHost": _host,
    "getHostname": _hostname,
    "getPort": lambda url: "" if url.parts.port is None else str(url.parts.port),
    "getEscapedPath": lambda url: quote(url.parts.path, safe="/%:@!$&'()*+,;=~-._"),
    "getQuery": lambda url: parse_qs(url.parts.query, keep_blank_values=True),
    "family": lambda address: address.version,
    "isUnspecified": lambda address: address.is_unspecified,
    "isLoopback": lambda address: address.is_loopback,
    "isLinkLocalMulticast": _link_local_multicast,
    "isLinkLocalUnicast": lambda address: address.is_link_local and not address.is_multicast,
    "isGlobalUnicast": _global_unicast,
    "containsIP": _contains_ip,
    "containsCIDR": _contains_cidr,
    "ip": lambda network: network.ip,
    "masked": lambda network: ipaddress.ip_interface(str(network.network)),
    "prefixLength": lambda network: network.network.prefixlen,
    "validate": _validate,
    "major": lambda version: version.numbers[0],
    "minor": lambda version: version.numbers[1],
    "patch": lambda version: version.numbers[2],
    **{
        name: _on(name)
        for name in (
            "path", "group", "serviceAccount", "check", "resource", "subresource", "namespace", "name",
            "fieldSelector", "labelSelector", "allowed", "reason", "errored", "error",
        )
    },
}  # fmt: skip
