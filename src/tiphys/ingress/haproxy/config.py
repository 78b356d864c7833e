"""The whole configuration of HAProxy for a site: a main file, tables of hosts and paths, certificates.

A request's way: its host, without port and in lower case, gives a site (exact name, one-label wildcard, deeper
wildcard, or nobody's); site and path give a route (exact path, else the longest prefix of whole elements); the route is
the name of a back end, or of a group of candidates that are told apart by headers, method and query.
"""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tiphys.ingress.haproxy import backends
from tiphys.ingress.haproxy.backends import Resolve, Slots
from tiphys.ingress.haproxy.lookup import Tables, tables_of
from tiphys.ingress.haproxy.words import argument, pattern, word
from tiphys.ingress.model import Action, Comparison, Field, Host, Listener, Match, Route, Site

NOT_FOUND: Final = Action(status=404)
NOBODY: Final = "_"  # the site of requests for a host that nobody has
SEPARATOR: Final = "|"  # between site and path; no host name has it
MAX_CONNECTIONS: Final = 20_000
SPARE_FILES: Final = 400  # listeners, sockets, pipes, threads
HAS_IPV6: Final = Path("/proc/net/if_inet6").exists()


@dataclass(frozen=True, slots=True)
class Settings:
    """Where files and sockets are, and what an administrator may choose. Times in seconds."""

    directory: Path
    status_address: str = ""  # where HAProxy says how it is and gives its metrics: "0.0.0.0:10254"
    connect_timeout: float = 5
    client_timeout: float = 60
    server_timeout: float = 60
    tunnel_timeout: float = 3600  # WebSockets and other upgraded connections
    stop_after: float = 3600  # connections of an old process are closed at last

    @property
    def main_file(self) -> Path:
        return self.directory / "haproxy.cfg"

    @property
    def socket(self) -> Path:
        """Where the running process takes commands."""
        return self.directory / "haproxy.sock"

    @property
    def pid_file(self) -> Path:
        return self.directory / "haproxy.pid"


@dataclass(slots=True)
class Configuration:
    """What a site becomes: files by name, and the sections whose servers can change while it runs."""

    files: dict[str, bytes] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=dict)  # by section
    slots: dict[str, Slots] = field(default_factory=dict)  # by section
    generation: str = ""  # says which configuration a process runs


def configuration(site: Site, settings: Settings, resolve: Resolve, before: Mapping[str, Slots]) -> Configuration:
    """Make it. Sections that were there `before` keep their endpoints where they are, as long as there is room."""
    made = Configuration()
    lines = []
    for listener in site.listeners:
        lines += list(_Frontend(listener, settings, made).lines())
    for name, action in sorted(made.actions.items()):
        lines += ["", *backends.section(name, action, _seat(made, name, action, resolve, before))]
    made.generation = _digest(made.files, lines)
    text = "\n".join([*_head(settings, made.generation), *lines, ""])
    made.files[settings.main_file.name] = text.encode()
    return made


def _seat(made: Configuration, name: str, action: Action, resolve: Resolve, before: Mapping[str, Slots]) -> Slots:
    """The slots of a section with the endpoints in them; none where nothing is asked of anybody."""
    if not action.is_proxied:
        return Slots([])
    servers = backends.servers_of(action, resolve)
    slots = before.get(name)
    if slots is None or slots.place(servers) is None:
        slots = Slots.holding(servers)
    made.slots[name] = slots
    return slots


def _digest(files: dict[str, bytes], lines: list[str]) -> str:
    """Of everything that needs a new process to change: servers do not."""
    found = hashlib.sha256()
    for name, data in sorted(files.items()):
        found.update(name.encode() + b"\0" + data)
    for line in lines:
        # How many there are matters, not who sits there.
        found.update((line.split(None, 2)[1] if line.startswith("  server ") else line).encode() + b"\n")
    return found.hexdigest()[:16]


def connections() -> int:
    """How many connections it may have: two files each, as far as this process could raise its limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if hard < 0 else max(100, min(MAX_CONNECTIONS, (hard - SPARE_FILES) // 2))


def _head(settings: Settings, generation: str) -> Iterator[str]:
    time = backends.milliseconds
    yield from (
        "global",
        f"  description {generation}",
        f"  maxconn {connections()}",
        f"  stats socket {word(str(settings.socket))} mode 600 level admin expose-fd listeners",
        "  stats timeout 1m",
        f"  hard-stop-after {time(settings.stop_after)}",
        "  ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets",
        "  tune.ssl.default-dh-param 2048",
        "  tune.bufsize 32768",
        "  log stderr format raw daemon notice",
        "",
        "defaults",
        "  mode http",
        "  log global",
        "  option dontlognull",
        "  option dontlog-normal",
        "  option redispatch 1",
        "  option http-keep-alive",
        "  retries 3",
        # What never reached an endpoint is tried on another. What did is only tried again where that does no harm.
        "  retry-on conn-failure empty-response",
        f"  timeout connect {time(settings.connect_timeout)}",
        f"  timeout client {time(settings.client_timeout)}",
        f"  timeout server {time(settings.server_timeout)}",
        f"  timeout tunnel {time(settings.tunnel_timeout)}",
        "  timeout http-request 30s",
        "  timeout queue 5s",
        "",
    )
    if settings.status_address:
        yield from (
            "frontend status",
            f"  bind {settings.status_address}",
            "  monitor-uri /healthz",
            "  http-request use-service prometheus-exporter if { path /metrics }",
            "  http-request return status 404",
            "",
        )


class _Frontend:
    """One listener's section with its tables."""

    def __init__(self, listener: Listener, settings: Settings, made: Configuration) -> None:
        self._listener = listener
        self._settings = settings
        self._made = made
        self._conditional: list[str] = []
        self._groups: dict[tuple[Route, ...], str] = {}

    def lines(self) -> Iterator[str]:
        """The section; its tables and certificates go into the configuration's files, its back ends are noted."""
        listener = self._listener
        tables = {f"h{number}": tables_of(host) for number, host in enumerate(listener.hosts)}
        sites = {f"h{number}": host for number, host in enumerate(listener.hosts)}
        self._host_tables(sites)
        self._path_tables(tables, {site: host.name for site, host in sites.items()})
        standard = 443 if listener.tls else 80
        yield f"frontend port_{listener.port}"
        tls = self._tls()
        yield f"  bind *:{listener.port}{tls}"
        if HAS_IPV6:
            # A socket of its own: with one for both, IPv4 clients have addresses nobody's rules are written in.
            yield f"  bind :::{listener.port} v6only{tls}"
        yield "  http-request disable-l7-retry unless METH_GET or { method HEAD OPTIONS }"
        yield "  http-request set-var(txn.host) req.hdr(host),host_only,lower"
        yield f"  http-request set-var(txn.scheme) str({'https' if listener.tls else 'http'})"
        yield f"  http-request set-var(txn.port) str({'' if listener.port == standard else f':{listener.port}'})"
        unknown = "unless { var(txn.site) -m found }"
        yield f"  http-request set-var(txn.site) {self._look_up('txn.host', 'str', 'hosts')}"
        yield f"  http-request set-var(txn.rest) var(txn.host),regsub(^[^.]*,) {unknown}"
        yield f"  http-request set-var(txn.site) {self._look_up('txn.rest', 'str', 'wildcards')} {unknown}"
        yield f"  http-request set-var(txn.site) {self._look_up('txn.host', 'end', 'deep')} {unknown}"
        yield f"  http-request set-var(txn.site) str({self._nobody(sites)}) {unknown}"
        yield "  http-request set-var(txn.path) path"
        yield f"  http-request set-var(txn.key) var(txn.site),concat({SEPARATOR},txn.path)"
        yield f"  http-request set-var(txn.route) {self._look_up('txn.key', 'str', 'exact')}"
        yield "  http-request set-var(txn.key) var(txn.key),concat(/)"
        unrouted = "unless { var(txn.route) -m found }"
        yield f"  http-request set-var(txn.route) {self._look_up('txn.key', 'beg', 'prefixes')} {unrouted}"
        # Nobody's word but ours says who the client is.
        yield "  http-request set-header X-Forwarded-For %[src]"
        yield "  http-request set-header X-Real-IP %[src]"
        yield "  http-request set-header X-Forwarded-Proto %[var(txn.scheme)]"
        yield f"  http-request set-header X-Forwarded-Port {listener.port}"
        yield "  http-request set-header X-Forwarded-Host %[req.hdr(host)]"
        for site, found in tables.items():
            for route in found.expressions:
                here = f"{{ var(txn.site) -m str {site} }} {{ path -m reg -i {word('^' + route.match.path)} }}"
                yield f"  use_backend {self._back_end(route.action)} if {here}{_conditions(route.match)}"
        yield from self._conditional
        yield "  use_backend %[var(txn.route)] if { var(txn.route) -m found }"
        yield f"  default_backend {self._back_end(listener.fallback or NOT_FOUND)}"
        yield ""

    def _nobody(self, sites: Mapping[str, Host]) -> str:
        return next((site for site, host in sites.items() if not host.name), NOBODY)

    def _look_up(self, variable: str, how: str, table: str) -> str:
        return f"var({variable}),map_{how}({argument(str(self._settings.directory / self._file(table)))})"

    def _file(self, table: str) -> str:
        return f"{self._listener.port}-{table}.map"

    def _host_tables(self, sites: Mapping[str, Host]) -> None:
        exact: list[tuple[str, str]] = []
        wildcards: list[tuple[str, str]] = []
        deep: list[tuple[str, str]] = []
        for site, host in sites.items():
            if host.name.startswith("*."):
                (deep if host.deep else wildcards).append((host.name[1:].lower(), site))
            elif host.name:
                exact.append((host.name.lower(), site))
        # Ends are compared one after another: the longest first.
        deep.sort(key=lambda pair: (-len(pair[0]), pair))
        self._write("hosts", exact)
        self._write("wildcards", wildcards)
        self._write("deep", deep)

    def _path_tables(self, tables: Mapping[str, Tables], names: Mapping[str, str]) -> None:
        exact, prefixes = [], []
        for site, found in tables.items():
            for path, routes in found.exact.items():
                exact.append((f"{site}{SEPARATOR}{path}", self._route(routes, names[site])))
            for path, routes in found.prefixes.items():
                prefixes.append((f"{site}{SEPARATOR}{path}", self._route(routes, names[site])))
        self._write("exact", exact)
        self._write("prefixes", prefixes)

    def _write(self, table: str, pairs: list[tuple[str, str]]) -> None:
        self._made.files[self._file(table)] = "".join(f"{key} {value}\n" for key, value in pairs).encode()

    def _route(self, candidates: tuple[Route, ...], host: str) -> str:
        """The back end of these candidates, or the name of a group whose rules are added."""
        if not candidates[0].match.has_conditions:
            return self._back_end(candidates[0].action)
        group = self._groups.get(candidates)
        if group is None:
            group = self._groups[candidates] = f"group{len(self._groups)}"
            for route in candidates:
                here = f"{{ var(txn.route) -m str {group} }}{_conditions(route.match)}"
                self._conditional.append(f"  use_backend {self._back_end(route.action)} if {here}")
        return group

    def _back_end(self, action: Action) -> str:
        name = backends.name_of(action)
        self._made.actions[name] = action
        return name

    def _tls(self) -> str:
        listener = self._listener
        if not listener.tls:
            return ""
        lines = []
        for certificate in listener.certificates:
            name = f"{listener.port}-{certificate.name}.pem"
            self._made.files[name] = certificate.pem
            path = self._settings.directory / name
            lines.append(" ".join([str(path), *(host.lower() for host in certificate.hosts)]) + "\n")
        listing = f"{listener.port}-certificates.list"
        self._made.files[listing] = "".join(lines).encode()
        return f" ssl crt-list {word(str(self._settings.directory / listing))} alpn h2,http/1.1"


def _conditions(match: Match) -> str:
    """What a match asks for beside host and path, each as ` { … }`."""
    found = [f" {{ method {word(match.method)} }}"] if match.method else []
    found += [_condition("req.fhdr", each) for each in match.headers]
    found += [_condition("url_param", each) for each in match.query]
    return "".join(found)


def _condition(fetch: str, wanted: Field) -> str:
    how = f"-m reg -- {word(wanted.value)}" if wanted.comparison is Comparison.REGEX else pattern(wanted.value)
    if fetch == "url_param":
        sample = f"url_param({argument(wanted.name)}),url_dec(1)"
    else:
        sample = f"{fetch}({argument(wanted.name)})"
    return f" {{ {word(sample)} {how} }}"
