"""What is wanted of the proxy, whatever kind of object asked for it: listeners, hosts, routes and actions.

Everything here is a plain value: two sites that are equal need nothing done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

ANY_HOST: Final = ""


class ServicePort(NamedTuple):
    """A port of a Service, by its number."""

    namespace: str
    service: str
    port: int


class Target(NamedTuple):
    """A Service that gets `weight` parts of the requests."""

    service: ServicePort
    weight: int = 1


class PathType(Enum):
    """How a path is compared. Prefixes by whole elements: /a matches /a and /a/b, not /ab."""

    EXACT = "Exact"
    PREFIX = "Prefix"
    REGEX = "Regex"  # from the beginning of the path, letters of either case


class Comparison(Enum):
    """How the value of a header or a query parameter is compared."""

    EXACT = "Exact"
    REGEX = "RegularExpression"


class Field(NamedTuple):
    """A header or query parameter a request must have."""

    name: str
    value: str
    comparison: Comparison = Comparison.EXACT


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests: all of it must hold."""

    path_type: PathType = PathType.PREFIX
    path: str = "/"
    method: str = ""
    headers: tuple[Field, ...] = ()
    query: tuple[Field, ...] = ()

    @property
    def has_conditions(self) -> bool:
        """Whether it asks for more than the path."""
        return bool(self.method or self.headers or self.query)

    @property
    def element_path(self) -> str:
        """A prefix as whole elements: with one "/" at its end."""
        return self.path.rstrip("/") + "/"


class Rewriting(Enum):
    """What of the path is replaced."""

    WHOLE = "whole"
    PREFIX = "prefix"  # the part that the match's path matched
    CAPTURED = "captured"  # the whole path; $1 is what the first group of the matched expression caught


class PathRewrite(NamedTuple):
    """The path as the back end, or whoever is redirected, shall see it. `matched` is the path of the match."""

    kind: Rewriting
    value: str
    matched: str = ""


class HeaderChange(NamedTuple):
    """`verb` is set, add or remove."""

    verb: str
    name: str
    value: str = ""

    @property
    def is_felt(self) -> bool:
        """Whether it changes anything: nothing added is nothing."""
        return bool(self.name) and (self.verb != "add" or bool(self.value))


@dataclass(frozen=True, slots=True)
class Redirect:
    """Sent back instead of an answer; what is empty stays as it was asked for."""

    code: int = 302
    scheme: str = ""
    host: str = ""
    port: int = 0
    path: PathRewrite | None = None
    location: str = ""  # a whole URL, instead of everything else


@dataclass(frozen=True, slots=True)
class Options:
    """How to talk to the back end. Times in seconds, sizes in bytes; None is the proxy's default."""

    connect_timeout: float | None = None
    read_timeout: float | None = None
    send_timeout: float | None = None
    body_size: int | None = None
    protocol: str = "HTTP"  # HTTP, HTTPS, GRPC, GRPCS, H2C
    sources: tuple[str, ...] = ()  # CIDRs that may ask; none: all
    cookie: str = ""  # name of a cookie that keeps a client with one endpoint


@dataclass(frozen=True, slots=True)
class Action:
    """What becomes of a request. Without targets and redirect it is answered `status`."""

    targets: tuple[Target, ...] = ()
    failing: int = 0  # weight of targets that are not there: as many parts of the requests get a 500
    redirect: Redirect | None = None
    host: str = ""  # the Host header for the back end; "" is the client's
    path: PathRewrite | None = None
    request_headers: tuple[HeaderChange, ...] = ()
    response_headers: tuple[HeaderChange, ...] = ()
    options: Options = Options()
    status: int = 503

    @property
    def is_proxied(self) -> bool:
        """Whether requests go to a Service."""
        return bool(self.targets) and self.redirect is None


@dataclass(frozen=True, slots=True)
class Route:
    """A match and its action. `rank` orders routes that match the same, `tier` comes before all: the lower first."""

    match: Match
    action: Action
    tier: int = 0
    rank: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """The routes of a host name: exact, "*.example.org" or ANY_HOST. A wildcard stands for one label, or with
    `deep` for one or more (Gateway API)."""

    name: str
    routes: tuple[Route, ...]
    deep: bool = False


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate chain with its key (PEM), for these host names; none: for whoever asks for something else."""

    name: str
    pem: bytes = field(repr=False)
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listener:
    """A port of the node. With `certificates` it speaks TLS."""

    port: int
    tls: bool = False
    hosts: tuple[Host, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    fallback: Action | None = None  # for what no route matches; None is 404


@dataclass(frozen=True, slots=True)
class Site:
    """Everything."""

    listeners: tuple[Listener, ...] = ()

    def services(self) -> set[ServicePort]:
        """Every Service port that is routed to."""
        return {target.service for action in self.actions() for target in action.targets}

    def actions(self) -> list[Action]:
        """Every action there is."""
        found = [listener.fallback for listener in self.listeners if listener.fallback is not None]
        for listener in self.listeners:
            for host in listener.hosts:
                found += [route.action for route in host.routes]
        return found


def precedence(route: Route) -> tuple[object, ...]:
    """A key that sorts routes of one host into the order they are tried in.

    Expressions first (they are a choice of whoever writes them), the longer the earlier; then exact paths before
    prefixes, longer before shorter, more conditions before fewer, and at last `rank`.
    https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule
    """
    match = route.match
    order = {PathType.REGEX: 0, PathType.EXACT: 1, PathType.PREFIX: 2}[match.path_type]
    length = len(match.element_path if match.path_type is PathType.PREFIX else match.path)
    return (
        route.tier,
        order,
        -length,
        match.path,
        not match.method,
        -len(match.headers),
        -len(match.query),
        route.rank,
    )
