"""From Gateways and their HTTPRoutes to listeners of the proxy, and to what their statuses say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tiphys.api.core.v1 import Namespace, Secret
from tiphys.ingress.certificates import CertificateError, certificate_of
from tiphys.ingress.gateway.hostnames import breadth, common_of_all, covers
from tiphys.ingress.gateway.rules import Grants, routes_of
from tiphys.ingress.gateway.types import (
    GROUP,
    Gateway,
    GatewayClass,
    GatewayListener,
    HTTPRoute,
    ParentReference,
    ReferenceGrant,
)
from tiphys.ingress.model import Certificate, Host, Route
from tiphys.ingress.services import Services, age
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.selectors import LabelSelector

CONTROLLER: Final = "tiphys.dev/gateway-controller"
PROTOCOLS: Final = {"HTTP": False, "HTTPS": True}  # protocol → with TLS


@dataclass(slots=True)
class Verdict:
    """What a condition says: its status, reason and message."""

    holds: bool
    reason: str
    message: str = ""


@dataclass(slots=True)
class ListenerVerdicts:
    """How a listener is."""

    name: str
    conditions: dict[str, Verdict]
    attached: int = 0
    kinds_supported: bool = True


@dataclass(slots=True)
class Port:
    """What all listeners of a port ask for."""

    tls: bool
    # By host name: routes, each with the host name its HTTPRoute asked for.
    routes: dict[str, list[tuple[str, Route]]] = field(default_factory=lambda: defaultdict(list))
    certificates: dict[str, Certificate] = field(default_factory=dict)

    def hosts(self) -> list[Host]:
        """Hosts with their own routes and those of every wider host name, the most specific tried first."""
        found = []
        for name in self.routes:
            here = [pair for other in self.routes if covers(other, name) for pair in self.routes[other]]
            tiers = {each: tier for tier, each in enumerate(sorted({breadth(asked) for asked, _ in here}))}
            routes = tuple(replace(route, tier=tiers[breadth(asked)]) for asked, route in here)
            found.append(Host(name, routes, deep=True))
        return found


@dataclass(slots=True)
class Outcome:
    """Listeners by port, and the verdicts for statuses."""

    ports: dict[int, Port] = field(default_factory=dict)
    gateways: dict[ObjectName, list[ListenerVerdicts]] = field(default_factory=dict)
    routes: dict[ObjectName, list[tuple[ParentReference, dict[str, Verdict]]]] = field(default_factory=dict)


class Translation:
    """One look at everything. `secrets` and `namespaces` find an object by name."""

    def __init__(
        self,
        services: Services,
        secrets: Callable[[ObjectName], Secret | None],
        namespaces: Callable[[ObjectName], Namespace | None],
        grants: Iterable[ReferenceGrant],
    ) -> None:
        self._services = services
        self._secrets = secrets
        self._namespaces = namespaces
        self._grants = Grants(grants)
        self._outcome = Outcome()

    def translate(
        self, classes: Iterable[GatewayClass], gateways: Iterable[Gateway], routes: Sequence[HTTPRoute]
    ) -> Outcome:
        """All of it."""
        ours = {each.metadata.name for each in classes if each.spec.controller_name == CONTROLLER}
        mine = {
            ObjectName(each.metadata.namespace, each.metadata.name): each
            for each in sorted(gateways, key=age)
            if each.spec.gateway_class_name in ours
        }
        for name, gateway in mine.items():
            self._outcome.gateways[name] = [self._listener(gateway, each) for each in gateway.spec.listeners]
        for route in sorted(routes, key=age):
            self._route(route, mine)
        return self._outcome

    def _listener(self, gateway: Gateway, listener: GatewayListener) -> ListenerVerdicts:
        good = Verdict(True, "Accepted")
        found = ListenerVerdicts(
            listener.name,
            {
                "Accepted": good,
                "Conflicted": Verdict(False, "NoConflicts"),
                "Programmed": Verdict(True, "Programmed"),
                "ResolvedRefs": Verdict(True, "ResolvedRefs"),
            },
        )
        kinds = listener.allowed_routes.kinds
        supported = [each for each in kinds if each.kind == "HTTPRoute" and (each.group or GROUP) == GROUP]
        if kinds and len(supported) != len(kinds):
            found.conditions["ResolvedRefs"] = Verdict(False, "InvalidRouteKinds", "only HTTPRoute is supported")
            found.kinds_supported = bool(supported)
        tls = PROTOCOLS.get(listener.protocol)
        if tls is None or (tls and listener.tls is not None and listener.tls.mode != "Terminate"):
            reason = Verdict(False, "UnsupportedProtocol", f"protocol {listener.protocol} is not supported here")
            found.conditions["Accepted"] = reason
            found.conditions["Programmed"] = Verdict(False, "Invalid", reason.message)
            return found
        port = self._outcome.ports.setdefault(listener.port, Port(tls))
        if port.tls != tls:
            found.conditions["Conflicted"] = Verdict(True, "ProtocolConflict", "the port has another protocol already")
            found.conditions["Accepted"] = Verdict(False, "PortUnavailable", "the port has another protocol already")
            found.conditions["Programmed"] = Verdict(False, "Invalid")
        elif tls:
            self._add_certificates(gateway, listener, port, found)
        return found

    def _add_certificates(
        self, gateway: Gateway, listener: GatewayListener, port: Port, found: ListenerVerdicts
    ) -> None:
        for reference in listener.tls.certificate_refs if listener.tls is not None else ():
            namespace = reference.namespace or gateway.metadata.namespace
            kind = reference.kind or "Secret"
            problem = ("InvalidCertificateRef", f"secret {namespace}/{reference.name}: it is not there")
            if (reference.group or "", kind) != ("", "Secret"):
                problem = ("InvalidCertificateRef", f"a certificate of kind {kind} is not supported")
            elif not self._grants.allow("Gateway", gateway.metadata.namespace, "", kind, namespace, reference.name):
                problem = ("RefNotPermitted", f"no ReferenceGrant allows secret {namespace}/{reference.name}")
            elif (secret := self._secrets(ObjectName(namespace, reference.name))) is not None:
                try:
                    hosts = (listener.hostname.lower(),) if listener.hostname else ()
                    made = certificate_of(secret, hosts)
                except CertificateError as error:
                    problem = ("InvalidCertificateRef", f"secret {namespace}/{reference.name}: {error}")
                else:
                    known = port.certificates.get(made.name)
                    both = tuple(dict.fromkeys((*(known.hosts if known else ()), *hosts)))
                    port.certificates[made.name] = replace(made, hosts=both)
                    continue
            found.conditions["ResolvedRefs"] = Verdict(False, *problem)
            found.conditions["Programmed"] = Verdict(False, "Invalid", problem[1])

    # --- routes ------------------------------------------------------------------------------

    def _route(self, route: HTTPRoute, gateways: Mapping[ObjectName, Gateway]) -> None:
        name = ObjectName(route.metadata.namespace, route.metadata.name)
        translated = routes_of(route, self._services, self._grants)
        for parent in route.spec.parent_refs:
            if (parent.group or GROUP, parent.kind or "Gateway") != (GROUP, "Gateway"):
                continue
            at = ObjectName(parent.namespace or name.namespace, parent.name)
            gateway = gateways.get(at)
            if gateway is None:
                continue  # nobody's, or another controller's
            accepted = self._attach(route, parent, gateway, self._outcome.gateways[at], translated.routes)
            if translated.unsupported and accepted.holds:
                accepted = Verdict(False, "UnsupportedValue", translated.unsupported)
            resolved = Verdict(True, "ResolvedRefs")
            if translated.unresolved is not None:
                resolved = Verdict(False, *translated.unresolved)
            verdicts = {"Accepted": accepted, "ResolvedRefs": resolved}
            self._outcome.routes.setdefault(name, []).append((parent, verdicts))

    def _attach(
        self,
        route: HTTPRoute,
        parent: ParentReference,
        gateway: Gateway,
        verdicts: Sequence[ListenerVerdicts],
        routes: Sequence[Route],
    ) -> Verdict:
        """Put the routes to every listener that takes them."""
        named = [
            (listener, verdict)
            for listener, verdict in zip(gateway.spec.listeners, verdicts, strict=True)
            if parent.section_name in (None, "", listener.name) and parent.port in (None, listener.port)
        ]
        if not named:
            return Verdict(False, "NoMatchingParent", "the Gateway has no such listener")
        allowed = [pair for pair in named if pair[1].kinds_supported and self._is_allowed(route, gateway, pair[0])]
        if not allowed:
            return Verdict(False, "NotAllowedByListeners", "no listener allows routes of this namespace")
        attached = False
        for listener, verdict in allowed:
            hosts = common_of_all(listener.hostname or "", route.spec.hostnames)
            if not hosts:
                continue
            attached = True
            verdict.attached += 1
            if verdict.conditions["Accepted"].holds:
                for host, asked in hosts.items():
                    self._outcome.ports[listener.port].routes[host] += [(asked, each) for each in routes]
        if not attached:
            return Verdict(False, "NoMatchingListenerHostname", "no listener has one of the route's host names")
        return Verdict(True, "Accepted")

    def _is_allowed(self, route: HTTPRoute, gateway: Gateway, listener: GatewayListener) -> bool:
        asked = listener.allowed_routes.namespaces
        match asked.from_:
            case "All":
                return True
            case "Selector" if asked.selector is not None:
                namespace = self._namespaces(ObjectName("", route.metadata.namespace))
                selector = LabelSelector.of_dict(asked.selector)
                return namespace is not None and selector.matches(dict(namespace.metadata.labels))
        return route.metadata.namespace == gateway.metadata.namespace
