"""From a rule of an HTTPRoute to routes of the model.

https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.ingress.gateway.types import (
    GROUP,
    BackendReference,
    FieldMatch,
    HeaderFilter,
    HTTPRoute,
    PathModifier,
    ReferenceGrant,
    RouteFilter,
    RouteMatch,
    RouteRule,
)
from tiphys.ingress.model import (
    Action,
    Comparison,
    Field,
    HeaderChange,
    Match,
    Options,
    PathRewrite,
    PathType,
    Redirect,
    Rewriting,
    Route,
    Target,
)
from tiphys.ingress.services import Services, age

PATHS: Final = {"Exact": PathType.EXACT, "PathPrefix": PathType.PREFIX}
COMPARISONS: Final = {"Exact": Comparison.EXACT, "RegularExpression": Comparison.REGEX}
_DURATION: Final = re.compile(r"(\d{1,5})(h|ms|m|s)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class Grants:
    """Who may refer to what in another namespace."""

    def __init__(self, grants: Iterable[ReferenceGrant]) -> None:
        self._grants = list(grants)

    def allow(self, kind: str, namespace: str, group: str, to_kind: str, to_namespace: str, name: str) -> bool:
        """Whether an object of our group and `kind` in `namespace` may refer to that."""
        if namespace == to_namespace:
            return True
        return any(
            grant.metadata.namespace == to_namespace
            and any(one.group == GROUP and one.kind == kind and one.namespace == namespace for one in grant.spec.from_)
            and any(
                one.group == group and one.kind == to_kind and one.name in (None, "", name) for one in grant.spec.to
            )
            for grant in self._grants
        )


@dataclass(slots=True)
class Translated:
    """The routes of an HTTPRoute, and what to say of it: (reason, message) where something is not as asked."""

    routes: list[Route] = field(default_factory=list)
    unresolved: tuple[str, str] | None = None
    unsupported: str = ""


def routes_of(route: HTTPRoute, services: Services, grants: Grants) -> Translated:
    """Translate all rules; what cannot be done answers 500, as the specification asks."""
    made = Translated()
    for number, rule in enumerate(route.spec.rules):
        for place, given in enumerate(rule.matches or (RouteMatch(),)):
            match = _match(given, made)
            if match is not None:
                action = _action(route, rule, match, services, grants, made)
                made.routes.append(Route(match, action, rank=(*age(route), f"{number:04}", f"{place:04}")))
    return made


def _match(given: RouteMatch, made: Translated) -> Match | None:
    kind = PATHS.get(given.path.type)
    if kind is None:
        made.unsupported = f"path matches of type {given.path.type} are not supported"
        return None
    # Of several headers that differ in case alone the first counts.
    headers = {one.name.lower(): one for one in reversed(given.headers)}
    fields = [_field(one, made) for one in (*reversed(headers.values()), *given.query_params)]
    if None in fields:
        return None
    found = tuple(one for one in fields if one is not None)
    return Match(kind, given.path.value or "/", given.method or "", found[: len(headers)], found[len(headers) :])


def _field(given: FieldMatch, made: Translated) -> Field | None:
    if not (given.name + given.value).isprintable():
        made.unsupported = f"{given.name!r} is matched with control characters"
        return None
    comparison = COMPARISONS.get(given.type)
    if comparison is Comparison.REGEX:
        try:
            re.compile(given.value)
        except re.error as error:
            made.unsupported = f"{given.value} is not an expression: {error}"
            return None
    if comparison is None:
        made.unsupported = f"matches of type {given.type} are not supported"
        return None
    return Field(given.name, given.value, comparison)


def _action(
    route: HTTPRoute, rule: RouteRule, match: Match, services: Services, grants: Grants, made: Translated
) -> Action:
    targets = []
    failing = 0
    filters = list(rule.filters)
    for reference in rule.backend_refs:
        problem, target = _target(route, reference, services, grants)
        if target is None:
            made.unresolved = made.unresolved or problem
            failing += reference.weight
        elif target.weight:
            targets.append(target)
        if reference.filters:
            if len(rule.backend_refs) == 1:
                filters += reference.filters
            else:
                made.unsupported = "filters of one of several backends are not supported"
                return Action(status=500)
    changes = _filters(filters, match, made)
    if changes is None:
        return Action(status=500)
    if "redirect" in changes:
        return Action(redirect=changes["redirect"])
    options = Options(read_timeout=_timeout(rule))
    if targets and all(services.protocol(each.service) == "H2C" for each in targets):
        options = Options(read_timeout=options.read_timeout, protocol="H2C")
    return Action(targets=tuple(targets), failing=failing, status=500, options=options, **changes)


def _target(
    route: HTTPRoute, reference: BackendReference, services: Services, grants: Grants
) -> tuple[tuple[str, str], Target | None]:
    namespace = reference.namespace or route.metadata.namespace
    group, kind = reference.group or "", reference.kind or "Service"
    if (group, kind) != ("", "Service"):
        return ("InvalidKind", f"a backend of kind {kind} is not supported"), None
    if not grants.allow("HTTPRoute", route.metadata.namespace, group, kind, namespace, reference.name):
        return ("RefNotPermitted", f"no ReferenceGrant allows service {namespace}/{reference.name}"), None
    port = services.port(namespace, reference.name, reference.port or 0)
    if port is None:
        return ("BackendNotFound", f"service {namespace}/{reference.name} has no port {reference.port}"), None
    return ("", ""), Target(port, reference.weight)


def _filters(filters: Iterable[RouteFilter], match: Match, made: Translated) -> dict[str, Any] | None:
    """The fields of an action that the filters set; None when one cannot be done."""
    found: dict[str, Any] = {}
    for each in filters:
        for changed in (each.request_header_modifier, each.response_header_modifier):
            if changed is not None and not _is_printable(changed):
                made.unsupported = "a header filter has control characters"
                return None
        if each.type == "RequestHeaderModifier" and each.request_header_modifier is not None:
            changes = _header_changes(each.request_header_modifier)
            found["request_headers"] = found.get("request_headers", ()) + changes
        elif each.type == "ResponseHeaderModifier" and each.response_header_modifier is not None:
            changes = _header_changes(each.response_header_modifier)
            found["response_headers"] = found.get("response_headers", ()) + changes
        elif each.type == "URLRewrite" and each.url_rewrite is not None:
            found["host"] = each.url_rewrite.hostname or ""
            found["path"] = _path(each.url_rewrite.path, match)
        elif each.type == "RequestRedirect" and each.request_redirect is not None:
            asked = each.request_redirect
            found["redirect"] = Redirect(
                asked.status_code, asked.scheme or "", asked.hostname or "", asked.port or 0, _path(asked.path, match)
            )
        else:
            made.unsupported = f"filters of type {each.type} are not supported"
            return None
    return found


def _is_printable(given: HeaderFilter) -> bool:
    """Whether it can stand in a configuration: one route's text must not keep everybody else's from it."""
    texts = [*given.remove, *(text for each in (*given.set, *given.add) for text in (each.name, each.value))]
    return all(text.isprintable() for text in texts)


def _header_changes(given: HeaderFilter) -> tuple[HeaderChange, ...]:
    return (
        *(HeaderChange("set", each.name, each.value) for each in given.set),
        *(HeaderChange("add", each.name, each.value) for each in given.add),
        *(HeaderChange("remove", name) for name in given.remove),
    )


def _path(given: PathModifier | None, match: Match) -> PathRewrite | None:
    if given is None:
        return None
    if given.type == "ReplaceFullPath":
        return PathRewrite(Rewriting.WHOLE, given.replace_full_path or "/")
    return PathRewrite(Rewriting.PREFIX, given.replace_prefix_match or "", match.path)


def _timeout(rule: RouteRule) -> float | None:
    """The stricter of the two time-outs in seconds; 0 is none, as for GEP-2257."""
    found = [seconds(text) for text in (rule.timeouts.request, rule.timeouts.backend_request) if text]
    limits = [each for each in found if each]
    return min(limits) if limits else None


def seconds(text: str) -> float:
    """A duration of the Gateway API in seconds, as 1h30m, 10s or 500ms (GEP-2257)."""
    return sum(int(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))
