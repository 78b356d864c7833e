"""String formats of the API: names, labels, keys, ports, addresses.

Each function answers a list of messages (empty: the value is valid), worded as the API words them.
Sources: RFC 1035, RFC 1123, https://kubernetes.io/docs/concepts/overview/working-with-objects/names/ and /labels/.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final

LABEL_1123: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN_1123: Final = LABEL_1123 + r"(\." + LABEL_1123 + ")*"
LABEL_1035: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"
WILDCARD_1123: Final = r"\*\." + SUBDOMAIN_1123
UNDERSCORE_1123: Final = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*"
QUALIFIED: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
LABEL_VALUE: Final = "(" + QUALIFIED + ")?"
CONFIG_KEY: Final = "[-._a-zA-Z0-9]+"
PERCENT: Final = "[0-9]+%"
HTTP_HEADER: Final = "[-A-Za-z0-9]+"
C_IDENTIFIER: Final = "[A-Za-z_][A-Za-z0-9_]*"
HTTP_PATH: Final = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"
SYSCTL: Final = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"

MUST_BE_IP: Final = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
MUST_BE_CIDR: Final = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"

_label = re.compile(LABEL_1123)
_subdomain = re.compile(SUBDOMAIN_1123)
_label_1035 = re.compile(LABEL_1035)
_wildcard = re.compile(WILDCARD_1123)
_underscore = re.compile(UNDERSCORE_1123)
_qualified = re.compile(QUALIFIED)
_label_value = re.compile(LABEL_VALUE)
_config_key = re.compile(CONFIG_KEY)
_percent = re.compile(PERCENT)
_header = re.compile(HTTP_HEADER)
_identifier = re.compile(C_IDENTIFIER)
_http_path = re.compile(HTTP_PATH)
_sysctl = re.compile(SYSCTL[1:-1])
_plain_ipv4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.|\Z)){4}(?<!\.)", re.ASCII)
_env_name = re.compile(r"[ -<>-~]+")


def regex_error(message: str, pattern: str, *examples: str) -> str:
    """`message`, examples and the pattern in the form every format error of the API has."""
    if not examples:
        return f"{message} (regex used for validation is '{pattern}')"
    listed = ",  or ".join(f"'{example}'" for example in examples)
    return f"{message} (e.g. {listed}, regex used for validation is '{pattern}')"


def max_length(limit: int) -> str:
    return f"must be no more than {limit} characters"


def max_bytes(limit: int) -> str:
    return f"must be no more than {limit} bytes"


def in_range(low: int, high: int) -> str:
    return f"must be between {low} and {high}, inclusive"


_LABEL_ERROR: Final = regex_error(
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
    "end with "
    "an alphanumeric character",
    LABEL_1123,
    "my-name",
    "123-abc",
)
_SUBDOMAIN_ERROR: Final = regex_error(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and "
    "end with an alphanumeric character",
    SUBDOMAIN_1123,
    "example.com",
)
_UNDERSCORE_ERROR: Final = regex_error(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and "
    "must start "
    "and end with an alphanumeric character",
    UNDERSCORE_1123,
    "example.com",
)
_LABEL_1035_ERROR: Final = regex_error(
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character",
    LABEL_1035,
    "my-name",
    "abc-123",
)
_WILDCARD_ERROR: Final = regex_error(
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist "
    "of lower "
    "case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
    WILDCARD_1123,
    "*.example.com",
)
_QUALIFIED_MESSAGE: Final = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
)
_QUALIFIED_ERROR: Final = regex_error(_QUALIFIED_MESSAGE, QUALIFIED, "MyName", "my.name", "123-abc")
_LABEL_VALUE_ERROR: Final = regex_error(
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and "
    "end with an alphanumeric character",
    LABEL_VALUE,
    "MyValue",
    "my_value",
    "12345",
)
_CONFIG_KEY_ERROR: Final = regex_error(
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    CONFIG_KEY,
    "key.name",
    "KEY_NAME",
    "key-name",
)
_ENV_NAME_ERROR: Final = (
    "a valid environment variable name must consist only of printable ASCII characters other than '='"
)


def dns1123_label(value: str) -> list[str]:
    """A DNS label of RFC 1123, at most 63 characters."""
    errors = [max_length(63)] if len(value) > 63 else []
    if not _label.fullmatch(value):
        errors.append("must not contain dots" if _subdomain.fullmatch(value) else _LABEL_ERROR)
    return errors


def dns1123_subdomain(value: str) -> list[str]:
    """A DNS subdomain of RFC 1123, at most 253 characters."""
    errors = [max_length(253)] if len(value) > 253 else []
    if not _subdomain.fullmatch(value):
        errors.append(_SUBDOMAIN_ERROR)
    return errors


def dns1123_subdomain_with_underscore(value: str) -> list[str]:
    """As a subdomain, but labels may start with and contain underscores (DNS search paths)."""
    errors = [max_length(253)] if len(value) > 253 else []
    if not _underscore.fullmatch(value):
        errors.append(_UNDERSCORE_ERROR)
    return errors


def dns1035_label(value: str) -> list[str]:
    """A DNS label of RFC 1035, at most 63 characters."""
    errors = [max_length(63)] if len(value) > 63 else []
    if not _label_1035.fullmatch(value):
        errors.append(_LABEL_1035_ERROR)
    return errors


def wildcard_dns1123_subdomain(value: str) -> list[str]:
    """`*.` and a DNS subdomain, at most 253 characters together."""
    errors = [max_length(253)] if len(value) > 253 else []
    if not _wildcard.fullmatch(value):
        errors.append(_WILDCARD_ERROR)
    return errors


def path_segment(value: str) -> list[str]:
    """A name that may stand as one segment of a URL path (RBAC names)."""
    return _not_a_segment(value) or path_segment_prefix(value)


def _not_a_segment(value: str) -> list[str]:
    return [f"may not be '{value}'"] if value in (".", "..") else []


def path_segment_prefix(value: str) -> list[str]:
    """The same for a generateName: only characters are judged."""
    return [f"may not contain '{char}'" for char in ("/", "%") if char in value]


@lru_cache(maxsize=4096)
def _qualified_name(value: str) -> tuple[str, ...]:
    errors: list[str] = []
    prefix, slash, name = value.rpartition("/")
    if "/" in prefix:
        detail = regex_error(_QUALIFIED_MESSAGE, QUALIFIED, "MyName", "my.name", "123-abc")
        return (
            f"a valid label key {detail} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
        )
    if slash:
        if not prefix:
            errors.append("prefix part must be non-empty")
        else:
            errors += ["prefix part " + message for message in dns1123_subdomain(prefix)]
    if not name:
        errors.append("name part must be non-empty")
    elif len(name) > 63:
        errors.append("name part " + max_bytes(63))
    if not _qualified.fullmatch(name):
        errors.append("name part " + _QUALIFIED_ERROR)
    return tuple(errors)


def qualified_name(value: str) -> tuple[str, ...]:
    """`[prefix/]name`, as label keys are; the prefix is a DNS subdomain, the name at most 63 characters."""
    return _qualified_name(value)


@lru_cache(maxsize=4096)
def _label_value_errors(value: str) -> tuple[str, ...]:
    errors = [max_bytes(63)] if len(value) > 63 else []
    if not _label_value.fullmatch(value):
        errors.append(_LABEL_VALUE_ERROR)
    return tuple(errors)


def label_value(value: str) -> tuple[str, ...]:
    """A label's value: empty, or at most 63 characters of the qualified-name alphabet."""
    return _label_value_errors(value)


def config_map_key(value: str) -> list[str]:
    """A key of a ConfigMap or Secret, which must also do as a file name."""
    errors = [max_length(253)] if len(value) > 253 else []
    if not _config_key.fullmatch(value):
        errors.append(_CONFIG_KEY_ERROR)
    if value == ".":
        errors.append("must not be '.'")
    elif value == "..":
        errors.append("must not be '..'")
    elif value.startswith(".."):
        errors.append("must not start with '..'")
    return errors


def env_var_name(value: str) -> list[str]:
    """An environment variable's name: printable ASCII without `=`."""
    return [] if _env_name.fullmatch(value) else [_ENV_NAME_ERROR]


def c_identifier(value: str) -> list[str]:
    if _identifier.fullmatch(value):
        return []
    message = (
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric "
        "characters or '_'"
    )
    return [regex_error(message, C_IDENTIFIER, "my_name", "MY_NAME", "MyName")]


def http_header_name(value: str) -> list[str]:
    if _header.fullmatch(value):
        return []
    return [
        regex_error("a valid HTTP header must consist of alphanumeric characters or '-'", HTTP_HEADER, "X-Header-Name")
    ]


def percent(value: str) -> list[str]:
    if _percent.fullmatch(value):
        return []
    message = "a valid percent string must be a numeric string followed by an ending '%'"
    return [regex_error(message, PERCENT, "1%", "93%")]


def port_number(value: int) -> list[str]:
    return [] if 1 <= value <= 65535 else [in_range(1, 65535)]


def port_name(value: str) -> list[str]:
    """An IANA service name (RFC 6335, section 5.1): at most 15 characters with at least one letter."""
    errors: list[str] = []
    if len(value) > 15:
        errors.append(max_length(15))
    if not re.fullmatch("[-a-z0-9]+", value):
        errors.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", value):
        errors.append("must contain at least one letter (a-z)")
    if "--" in value:
        errors.append("must not contain consecutive hyphens")
    if value and (value[0] == "-" or value[-1] == "-"):
        errors.append("must not begin or end with a hyphen")
    return errors


def user_id(value: int) -> list[str]:
    return [] if 0 <= value <= 2147483647 else [in_range(0, 2147483647)]


def domain_prefixed_path(value: str) -> list[str]:
    """`domain/path`, as an IngressClass's controller is."""
    domain, slash, path = value.partition("/")
    if not slash or not domain or not path:
        return ['must be a domain-prefixed path (such as "acme.io/foo")']
    errors = dns1123_subdomain(domain)
    if not _http_path.fullmatch(path):
        errors.append(regex_error("Invalid path", HTTP_PATH))
    return errors


def fully_qualified_name(value: str, minimum: int = 2) -> list[str]:
    """A DNS subdomain of at least `minimum` segments (3 for webhook names)."""
    errors = dns1123_subdomain(value)
    if errors:
        return errors
    words = {2: "at least one dot", 3: "at least three segments separated by dots"}
    return [] if len(value.split(".")) >= minimum else [f"should be a domain with {words[minimum]}"]


def sysctl_name(value: str) -> bool:
    return len(value) <= 253 and _sysctl.fullmatch(value) is not None


IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_ip_sloppy(value: str) -> IPAddress | None:
    """An address, also with the leading zeros that old objects may hold; None when it is none."""
    if "%" in value:
        return None
    try:
        return ipaddress.ip_address(value)
    except ValueError:
        pass
    parts = value.split(".")
    if len(parts) == 4 and all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts):
        return ipaddress.IPv4Address(".".join(str(int(part)) for part in parts))
    return None


def ip_address(value: str) -> list[str]:
    """An IPv4 or IPv6 address without leading zeros, not IPv4-mapped."""
    if _plain_ipv4.fullmatch(value):
        return []
    address = parse_ip_sloppy(value)
    if address is None:
        return [MUST_BE_IP]
    if isinstance(address, ipaddress.IPv6Address):
        return ["must not be an IPv4-mapped IPv6 address"] if address.ipv4_mapped else []
    return [] if str(address) == value else ["must not have leading 0s"]


def canonical_ip(value: str) -> list[str]:
    """An address in the one canonical spelling of RFC 5952."""
    errors = ip_address(value)
    if errors:
        return errors
    canonical = str(ipaddress.ip_address(value))
    return [] if canonical == value else [f'must be in canonical form ("{canonical}")']


def non_special_ip(value: str) -> list[str]:
    """Messages for an address that endpoints and external addresses may not be; invalid text is not judged here."""
    address = parse_ip_sloppy(value)
    if address is None:
        return []
    errors: list[str] = []
    if address.is_unspecified:
        errors.append("may not be unspecified (0.0.0.0 or ::)")
    if address.is_loopback:
        errors.append("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if address.is_link_local:
        errors.append("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if address.is_multicast and _is_link_local_multicast(address):
        errors.append("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
    return errors


def _is_link_local_multicast(address: IPAddress) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return address in ipaddress.IPv4Network("224.0.0.0/24")
    return address.packed[0] == 0xFF and address.packed[1] & 0x0F == 2


def parse_cidr_sloppy(value: str) -> tuple[IPAddress, int] | None:
    """Address and prefix length; None when it is no CIDR."""
    text, slash, bits = value.partition("/")
    address = parse_ip_sloppy(text)
    if address is None or not slash or not (bits.isascii() and bits.isdigit()):
        return None
    return (address, int(bits)) if int(bits) <= address.max_prefixlen else None


def cidr(value: str) -> list[str]:
    """A subnet in CIDR notation without leading zeros or host bits."""
    parsed = parse_cidr_sloppy(value)
    if parsed is None:
        return [MUST_BE_CIDR]
    address, bits = parsed
    errors: list[str] = []
    text, _, written_bits = value.partition("/")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        errors.append("must not have an IPv4-mapped IPv6 address")
    elif isinstance(address, ipaddress.IPv4Address) and str(address) != text:
        errors.append("must not have leading 0s in IP")
    if str(bits) != written_bits:
        errors.append("must not have leading 0s in prefix length")
    if not errors and ipaddress.ip_network((address, bits), strict=False).network_address != address:
        errors.append("must not have bits set beyond the prefix length")
    return errors


def canonical_cidr(value: str) -> list[str]:
    errors = cidr(value)
    if errors:
        return errors
    canonical = str(ipaddress.ip_network(value, strict=False))
    return [] if canonical == value else [f'must be in canonical form ("{canonical}")']
