"""The back-end sections: what happens to a request once its route is known, and the servers it may go to.

Servers are slots. A section has a few more than there are endpoints, so that endpoints can come and go by word to
the running proxy (`servers`); only when they run out is the configuration made anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tiphys.ingress.haproxy.words import literal, path_on_the_wire, word
from tiphys.ingress.model import Action, Options, PathRewrite, Redirect, Rewriting, ServicePort

SMALLEST: Final = 4  # slots a section has at least
HEAVIEST: Final = 256  # HAProxy's largest weight
EMPTY: Final = "127.0.0.1:1"  # the address of a slot nobody is in
COOKIE_KEY: Final = "tiphys"


class Server(NamedTuple):
    """An endpoint with its share of the requests."""

    address: str  # IP
    port: int
    weight: int = HEAVIEST

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


Resolve = Callable[[ServicePort], Sequence[tuple[str, int]]]


@dataclass(slots=True)
class Slots:
    """Who is in which slot of a section; an endpoint stays where it is while it is there."""

    servers: list[Server | None]

    @classmethod
    def holding(cls, servers: Sequence[Server]) -> Slots:
        """Room for these and some more."""
        size = SMALLEST
        while size < len(servers) + 1:
            size *= 2
        return cls([*servers, *[None] * (size - len(servers))])

    def place(self, servers: Sequence[Server]) -> dict[int, Server | None] | None:
        """Seat these: slot → its new server for those that changed. None when there is no room."""
        if len(servers) > len(self.servers):
            return None
        wanted = {(one.address, one.port): one for one in servers}
        changed: dict[int, Server | None] = {}
        free = []
        for index, seated in enumerate(self.servers):
            stays = wanted.pop((seated.address, seated.port), None) if seated is not None else None
            if stays is None:
                free.append(index)
            if stays != seated:
                changed[index] = stays
        for index, (_, one) in zip(free, sorted(wanted.items()), strict=False):
            changed[index] = one
        for index, seated in changed.items():
            self.servers[index] = seated
        return changed


def name_of(action: Action) -> str:
    """A name for a section that says what it is, and is the same for the same action."""
    digest = hashlib.sha256(repr(action).encode()).hexdigest()[:12]
    if not action.targets:
        return f"answer_{digest}"
    first = action.targets[0].service
    plain = action == Action(targets=action.targets[:1])
    return f"{first.namespace}_{first.service}_{first.port}" + ("" if plain else f"_{digest}")


def servers_of(action: Action, resolve: Resolve) -> list[Server]:
    """The endpoints of all targets, each with its part of its target's weight."""
    found: list[tuple[str, int, float]] = []
    for target in action.targets:
        endpoints = resolve(target.service)
        found += [(address, port, target.weight / len(endpoints)) for address, port in endpoints]
    most = max((share for *_, share in found), default=0.0)
    if not most:
        return []
    return sorted(
        {Server(address, port, max(1, round(HEAVIEST * share / most))) for address, port, share in found if share}
    )


def section(name: str, action: Action, slots: Slots) -> Iterator[str]:
    """The lines of one back end."""
    yield f"backend {name}"
    options = action.options
    yield from (f"  {line}" for line in _admission(options))
    if action.failing:
        total = action.failing + sum(target.weight for target in action.targets)
        yield f"  http-request return status 500 if {{ rand({total}) lt {action.failing} }}"
    if action.path is not None:
        yield from (f"  {line}" for line in _rewrite(action.path))
    if action.redirect is not None:
        yield from (f"  {line}" for line in _redirect(action.redirect))
        return
    if not action.targets:
        yield f"  http-request return status {action.status} content-type text/plain string {_reason(action.status)}"
        return
    if action.host:
        yield f"  http-request set-header Host {literal(action.host)}"
    yield from (f"  http-request {_header(*change)}" for change in action.request_headers if change.is_felt)
    yield from (f"  http-response {_header(*change)}" for change in action.response_headers if change.is_felt)
    yield from (f"  {line}" for line in _timeouts(options))
    suffix = _transport(options.protocol)
    if options.cookie:
        yield f"  cookie {word(options.cookie)} insert indirect nocache httponly dynamic"
        yield f"  dynamic-cookie-key {COOKIE_KEY}"
    for index, server in enumerate(slots.servers):
        if server is None:
            yield f"  server s{index} {EMPTY}{suffix} disabled"
        else:
            yield f"  server s{index} {server} weight {server.weight}{suffix}"


def _admission(options: Options) -> Iterator[str]:
    if options.sources:
        yield f"http-request deny deny_status 403 unless {{ src {' '.join(word(each) for each in options.sources)} }}"
    if options.body_size:
        yield f"http-request deny deny_status 413 if {{ req.body_size gt {options.body_size} }}"


def _timeouts(options: Options) -> Iterator[str]:
    if options.connect_timeout is not None:
        yield f"timeout connect {milliseconds(options.connect_timeout)}"
    times = [each for each in (options.read_timeout, options.send_timeout) if each is not None]
    if times:
        yield f"timeout server {milliseconds(max(times))}"


def milliseconds(seconds: float) -> str:
    """A time as HAProxy writes it; at least a millisecond, at most its largest (24 days)."""
    return f"{min(max(round(seconds * 1000), 1), 2**31 - 1)}ms"


def _transport(protocol: str) -> str:
    match protocol:
        case "HTTPS":
            return " ssl verify none"
        case "GRPCS":
            return " ssl verify none alpn h2"
        case "GRPC" | "H2C":
            return " proto h2"
    return ""


def _header(verb: str, name: str, value: str) -> str:
    if verb == "remove" or not value:
        return f"del-header {word(name)}"
    return f"{'add' if verb == 'add' else 'set'}-header {word(name)} {literal(value)}"


def _rewrite(rewrite: PathRewrite) -> Iterator[str]:
    value = path_on_the_wire(rewrite.value)
    match rewrite.kind:
        case Rewriting.WHOLE:
            yield f"http-request set-path {literal(value or '/')}"
        case Rewriting.PREFIX:
            matched = path_on_the_wire(rewrite.matched.rstrip("/"))
            start = value.rstrip("/")
            yield "http-request set-var(txn.asked) path"
            yield f"http-request replace-path {word(f'^{re.escape(matched)}(/.*)$')} {_replacement(start)}\\1"
            if matched:
                yield f"http-request set-path {literal(value or '/')} if {{ var(txn.asked) -m str {word(matched)} }}"
        case Rewriting.CAPTURED:
            parts = re.split(r"\$(\d)", value.replace("%24", "$"))
            text = "".join(f"\\{part}" if index % 2 else _escaped(part) for index, part in enumerate(parts))
            yield f"http-request replace-path {word(f'(?i)^{rewrite.matched}')} {word(text)}"


def _escaped(text: str) -> str:
    """A text inside a replacement: backslashes and percent signs are only themselves."""
    return text.replace("\\", "\\\\").replace("%", "%%")


def _replacement(text: str) -> str:
    return word(_escaped(text)) if text else ""


def _redirect(redirect: Redirect) -> Iterator[str]:
    if redirect.location:
        yield f"http-request redirect code {redirect.code} location {literal(redirect.location)}"
        return
    if redirect.path is not None:
        yield from _rewrite(redirect.path)
    scheme = redirect.scheme or "%[var(txn.scheme)]"
    host = redirect.host.replace("%", "%%") or "%[var(txn.host)]"
    well_known = {"http": 80, "https": 443}
    if redirect.port:
        port = "" if well_known.get(redirect.scheme) == redirect.port else f":{redirect.port}"
    else:
        port = "" if redirect.scheme else "%[var(txn.port)]"
    yield f"http-request redirect code {redirect.code} location {word(f'{scheme}://{host}{port}%[pathq]')}"


def _reason(status: int) -> str:
    texts = {404: "default backend - 404", 500: "internal error", 503: "no endpoints"}
    return word(texts.get(status, str(status)))
