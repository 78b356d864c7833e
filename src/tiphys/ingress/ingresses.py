"""From Ingress objects to hosts and routes.

https://kubernetes.io/docs/concepts/services-networking/ingress/ says what a rule means; where it leaves a choice we do
as ingress-nginx does: of two rules for the same host and path the older Ingress wins, a host with TLS is redirected
there, a path that no rule of its host has is answered by the default back end.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tiphys.api.core.v1 import Secret
from tiphys.api.networking.v1 import HTTPIngressPath, Ingress, IngressBackend, IngressClass
from tiphys.ingress.annotations import Wishes, wishes_of
from tiphys.ingress.certificates import CertificateError, certificate_of
from tiphys.ingress.model import (
    Action,
    Certificate,
    Host,
    Match,
    PathRewrite,
    PathType,
    Redirect,
    Rewriting,
    Route,
    Target,
)
from tiphys.ingress.services import Services, age
from tiphys.machinery.meta import ObjectName

CONTROLLER: Final = "tiphys.dev/ingress"
LEGACY_CLASS: Final = "kubernetes.io/ingress.class"
TO_TLS: Final = Action(redirect=Redirect(308, scheme="https"))
LONGEST_EXPRESSION: Final = 1000  # characters

Secrets = Callable[[ObjectName], Secret | None]


@dataclass(slots=True)
class Wanted:
    """What all Ingresses ask for together, and what is wrong with each, by its name."""

    plain: list[Host] = field(default_factory=list)
    tls: list[Host] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)
    fallback: Action | None = None
    problems: dict[ObjectName, list[str]] = field(default_factory=lambda: defaultdict(list))


def is_ours(ingress: Ingress, classes: Mapping[str, IngressClass]) -> bool:
    """Whether its class names this controller."""
    name = ingress.spec.ingress_class_name or ingress.metadata.annotations.get(LEGACY_CLASS, "")
    found = classes.get(name)
    return found is not None and found.spec.controller == CONTROLLER


def wanted_of(ingresses: Iterable[Ingress], services: Services, secrets: Secrets) -> Wanted:
    """All of it; `ingresses` are those of our class."""
    made = _Translation(services, secrets)
    for ingress in sorted(ingresses, key=age):
        made.add(ingress)
    return made.finish()


class _Translation:
    """Fed with Ingresses, the oldest first."""

    def __init__(self, services: Services, secrets: Secrets) -> None:
        self._services = services
        self._secrets = secrets
        self._plain: dict[str, list[Route]] = defaultdict(list)
        self._tls: dict[str, list[Route]] = defaultdict(list)
        self._taken: set[tuple[str, PathType, str]] = set()
        self._certificates: dict[str, Certificate] = {}
        self._certified: set[str] = set()
        self._fallbacks: list[tuple[bool, Action]] = []
        self._wanted = Wanted()

    def add(self, ingress: Ingress) -> None:
        """One more."""
        name = ObjectName(ingress.metadata.namespace, ingress.metadata.name)
        wishes = wishes_of(ingress.metadata.annotations)
        problems = self._wanted.problems[name]
        problems += wishes.problems
        secured = self._add_certificates(ingress, problems)
        fallback = None
        if ingress.spec.default_backend is not None:
            fallback = self._action(name.namespace, ingress.spec.default_backend, wishes, problems)
            self._fallbacks.append((bool(ingress.spec.rules), fallback))
        for rule in ingress.spec.rules:
            host = rule.host.lower()
            redirected = wishes.ssl_redirect or (wishes.ssl_redirect is None and self._is_secured(host, secured))
            routes = [self._route(name, path, wishes, problems) for path in (rule.http.paths if rule.http else ())]
            if wishes.app_root:
                root = Action(redirect=Redirect(302, location=wishes.app_root))
                routes.insert(0, Route(Match(PathType.EXACT, "/"), root))
            for route in filter(None, routes):
                self._put(host, route, redirected)
            if fallback is not None:
                self._put(host, Route(Match(), fallback), redirected)

    def _put(self, host: str, route: Route, redirected: bool) -> None:
        match = route.match
        path = match.element_path if match.path_type is PathType.PREFIX else match.path
        key = (host, match.path_type, path)
        if key in self._taken:
            return  # an older one has it
        self._taken.add(key)
        self._tls[host].append(route)
        self._plain[host].append(replace(route, action=TO_TLS) if redirected else route)

    @staticmethod
    def _is_secured(host: str, secured: set[str]) -> bool:
        """Whether TLS was asked for the host by name, or by a wildcard over its first label."""
        return host in secured or (bool(host) and f"*.{host.partition('.')[2]}" in secured)

    def _route(self, name: ObjectName, path: HTTPIngressPath, wishes: Wishes, problems: list[str]) -> Route | None:
        action = self._action(name.namespace, path.backend, wishes, problems)
        text = path.path or "/"
        if wishes.use_regex or "$" in wishes.rewrite_target:
            if path.path_type == "Exact":
                text = f"{re.escape(text)}$"
            problem = expression_problem(text)
            if problem:
                problems.append(f"path {text}: {problem}")
                return None
            if wishes.rewrite_target and action.targets:
                action = replace(action, path=PathRewrite(Rewriting.CAPTURED, wishes.rewrite_target, text))
            return Route(Match(PathType.REGEX, text), action)
        if wishes.rewrite_target and action.targets:
            action = replace(action, path=PathRewrite(Rewriting.WHOLE, wishes.rewrite_target))
        return Route(Match(PathType.EXACT if path.path_type == "Exact" else PathType.PREFIX, text), action)

    def _action(self, namespace: str, backend: IngressBackend, wishes: Wishes, problems: list[str]) -> Action:
        if wishes.redirect_to:
            return Action(redirect=Redirect(wishes.redirect_code, location=wishes.redirect_to))
        if backend.service is None:
            problems.append("a backend that is a resource is not supported")
            return Action(options=wishes.options)
        given = backend.service.port
        port = (given.name or given.number or 0) if given is not None else 0
        found = self._services.port(namespace, backend.service.name, port)
        if found is None:
            what = f"port {port} of service" if self._services.exists(namespace, backend.service.name) else "service"
            problems.append(f"{what} {namespace}/{backend.service.name} is not there")
            return Action(options=wishes.options)
        options = wishes.options
        if options.protocol == "HTTP":
            options = replace(options, protocol=self._services.protocol(found))
        return Action(targets=(Target(found),), host=wishes.upstream_host, options=options)

    def _add_certificates(self, ingress: Ingress, problems: list[str]) -> set[str]:
        """Note the certificates; the hosts that shall be reached by TLS."""
        secured: set[str] = set()
        for entry in ingress.spec.tls:
            hosts = tuple(host.lower() for host in entry.hosts)
            secured.update(hosts)
            if not entry.secret_name:
                continue  # our own certificate
            secret = self._secrets(ObjectName(ingress.metadata.namespace, entry.secret_name))
            try:
                if secret is None:
                    raise CertificateError("it is not there")
                found = certificate_of(secret)
            except CertificateError as error:
                problems.append(f"secret {ingress.metadata.namespace}/{entry.secret_name}: {error}")
                continue
            free = tuple(host for host in hosts if host not in self._certified)
            self._certified.update(free)
            known = self._certificates.get(found.name)
            if free or (not hosts and known is None):
                self._certificates[found.name] = replace(found, hosts=(*(known.hosts if known else ()), *free))
        return secured

    def finish(self) -> Wanted:
        """What came together."""
        wanted = self._wanted
        wanted.plain = [Host(name, tuple(routes)) for name, routes in sorted(self._plain.items())]
        wanted.tls = [Host(name, tuple(routes)) for name, routes in sorted(self._tls.items())]
        wanted.certificates = [each for _, each in sorted(self._certificates.items())]
        # Of an Ingress without rules first: it says nothing else.
        wanted.fallback = min(self._fallbacks, key=lambda pair: pair[0])[1] if self._fallbacks else None
        wanted.problems = {name: found for name, found in wanted.problems.items() if found}
        return wanted


def expression_problem(text: str) -> str:
    """Why an expression cannot be used, "" when it can."""
    if len(text) > LONGEST_EXPRESSION:
        return f"longer than {LONGEST_EXPRESSION} characters"
    if not text.isprintable():
        return "it has control characters"
    try:
        re.compile(text)
    except re.error as error:
        return f"it is not an expression: {error}"
    return ""
