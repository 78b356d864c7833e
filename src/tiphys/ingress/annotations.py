"""What the annotations of an Ingress ask for, under the names most charts use (ingress-nginx).

https://kubernetes.github.io/ingress-nginx/user-guide/nginx-configuration/annotations/ names and describes them
all; those not read here are told to the user in an event rather than passed over in silence.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.ingress.model import Options

PREFIX: Final = "nginx.ingress.kubernetes.io/"
PROTOCOLS: Final = ("HTTP", "HTTPS", "GRPC", "GRPCS", "AUTO_HTTP")
DEFAULT_COOKIE: Final = "INGRESSCOOKIE"
_SIZE: Final = re.compile(r"(\d{1,12})([kKmMgG]?)")
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_COOKIE: Final = re.compile(r"[A-Za-z0-9_.\-]+")


@dataclass(slots=True)
class Wishes:
    """The annotations as values; `problems` says which are not understood."""

    rewrite_target: str = ""
    use_regex: bool = False
    ssl_redirect: bool | None = None  # None: only where there is TLS
    redirect_to: str = ""
    redirect_code: int = 302
    app_root: str = ""
    upstream_host: str = ""
    options: Options = field(default_factory=Options)
    problems: list[str] = field(default_factory=list)


def wishes_of(annotations: Mapping[str, str]) -> Wishes:
    """Read them. What cannot be read counts as not there and is named in `problems`."""
    found = Wishes()
    options: dict[str, Any] = {}
    for key, text in sorted(annotations.items()):
        if not key.startswith(PREFIX):
            continue
        name = key.removeprefix(PREFIX)
        reader = _READERS.get(name)
        if reader is None:
            found.problems.append(f"annotation {key} is not supported")
            continue
        try:
            if not text.strip().isprintable():
                raise ValueError("it has control characters")
            reader(found, options, text.strip())
        except ValueError as error:
            found.problems.append(f"annotation {key}: {error}")
    if "cookie" in options and annotations.get(f"{PREFIX}affinity") != "cookie":
        del options["cookie"]
    found.options = Options(**options)
    return found


Reader = Callable[[Wishes, dict[str, Any], str], None]


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f'"{text}" is neither true nor false')
    return text == "true"


def _seconds(name: str) -> Reader:
    def read(_: Wishes, options: dict[str, Any], text: str) -> None:
        digits = text.removesuffix("s")
        if not digits.isdigit() or not 0 < int(digits) < 1 << 31:
            raise ValueError(f'"{text}" is not a number of seconds')
        options[name] = float(digits)

    return read


def _body_size(_: Wishes, options: dict[str, Any], text: str) -> None:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a size')
    options["body_size"] = int(match[1]) * _UNITS[match[2].lower()] or None


def _protocol(_: Wishes, options: dict[str, Any], text: str) -> None:
    if text.upper() not in PROTOCOLS:
        raise ValueError(f'"{text}" is not one of {", ".join(PROTOCOLS)}')
    options["protocol"] = "HTTP" if text.upper() == "AUTO_HTTP" else text.upper()


def _sources(_: Wishes, options: dict[str, Any], text: str) -> None:
    options["sources"] = tuple(str(ipaddress.ip_network(each.strip(), strict=False)) for each in text.split(","))


def _affinity(_: Wishes, options: dict[str, Any], text: str) -> None:
    if text != "cookie":
        raise ValueError(f'"{text}" is not "cookie"')
    options.setdefault("cookie", DEFAULT_COOKIE)


def _cookie_name(_: Wishes, options: dict[str, Any], text: str) -> None:
    if not _COOKIE.fullmatch(text):
        raise ValueError(f'"{text}" is not the name of a cookie')
    options["cookie"] = text


def _rewrite_target(wishes: Wishes, _: dict[str, Any], text: str) -> None:
    if not text.startswith("/"):
        raise ValueError(f'"{text}" does not begin with /')
    wishes.rewrite_target = text


def _use_regex(wishes: Wishes, _: dict[str, Any], text: str) -> None:
    wishes.use_regex = _boolean(text)


def _ssl_redirect(wishes: Wishes, _: dict[str, Any], text: str) -> None:
    # "false" keeps plain HTTP where there is TLS; "true" says what is so anyway.
    if not _boolean(text) and wishes.ssl_redirect is None:
        wishes.ssl_redirect = False


def _force_ssl_redirect(wishes: Wishes, _: dict[str, Any], text: str) -> None:
    if _boolean(text):
        wishes.ssl_redirect = True


def _redirect(code: int) -> Reader:
    def read(wishes: Wishes, _: dict[str, Any], text: str) -> None:
        if not text.startswith(("http://", "https://", "/")):
            raise ValueError(f'"{text}" is not a URL')
        if not wishes.redirect_to:
            wishes.redirect_to = text
            if code != 301 or wishes.redirect_code == 302:
                wishes.redirect_code = code

    return read


def _redirect_code(wishes: Wishes, _: dict[str, Any], text: str) -> None:
    if text not in ("301", "302", "303", "307", "308"):
        raise ValueError(f'"{text}" is not the code of a redirect')
    wishes.redirect_code = int(text)


def _app_root(wishes: Wishes, _: dict[str, Any], text: str) -> None:
    if not text.startswith("/"):
        raise ValueError(f'"{text}" does not begin with /')
    wishes.app_root = text


def _upstream_host(wishes: Wishes, _: dict[str, Any], text: str) -> None:
    wishes.upstream_host = text


_READERS: Final[Mapping[str, Reader]] = {
    "affinity": _affinity,
    "allowlist-source-range": _sources,
    "app-root": _app_root,
    "backend-protocol": _protocol,
    "force-ssl-redirect": _force_ssl_redirect,
    "permanent-redirect": _redirect(301),
    "permanent-redirect-code": _redirect_code,
    "proxy-body-size": _body_size,
    "proxy-connect-timeout": _seconds("connect_timeout"),
    "proxy-read-timeout": _seconds("read_timeout"),
    "proxy-send-timeout": _seconds("send_timeout"),
    "rewrite-target": _rewrite_target,
    "session-cookie-name": _cookie_name,
    "ssl-redirect": _ssl_redirect,
    "temporal-redirect": _redirect(302),
    "upstream-vhost": _upstream_host,
    "use-regex": _use_regex,
    "whitelist-source-range": _sources,
}
