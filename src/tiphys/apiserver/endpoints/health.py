"""/livez, /readyz, /healthz: named checks, under upstream's names so that monitoring finds what it knows.

/livez            "ok"                       /livez?verbose     one line a check
/livez/etcd       one check                  ?exclude=etcd      without it
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Response
from tiphys.base.log import get_logger
from tiphys.base.metrics import Registry

log = get_logger(__name__)

TEXT: Final = "text/plain; charset=utf-8"
NOSNIFF: Final = (("X-Content-Type-Options", "nosniff"),)

# A check returns None when all is well, else what is wrong (for the log: clients only learn that it failed).
Check = Callable[[], Awaitable[str | None]]

# What upstream starts in the background. Here the parts behind these names are in place once the server is ready.
HOOKS: Final = (
    "start-apiserver-admission-initializer",
    "generic-apiserver-start-informers",
    "priority-and-fairness-config-consumer",
    "priority-and-fairness-filter",
    "storage-object-count-tracker-hook",
    "start-apiextensions-informers",
    "start-apiextensions-controllers",
    "crd-informer-synced",
    "start-system-namespaces-controller",
    "peer-endpoint-reconciler-controller",
    "start-cluster-authentication-info-controller",
    "start-kube-apiserver-identity-lease-controller",
    "start-kube-apiserver-identity-lease-garbage-collector",
    "storage-readiness",
    "start-legacy-token-tracking-controller",
    "start-service-ip-repair-controllers",
    "rbac/bootstrap-roles",
    "scheduling/bootstrap-system-priority-classes",
    "priority-and-fairness-config-producer",
    "bootstrap-controller",
    "start-kubernetes-service-cidr-controller",
    "aggregator-reload-proxy-client-cert",
    "start-kube-aggregator-informers",
    "apiservice-status-local-available-controller",
    "apiservice-status-remote-available-controller",
    "apiservice-registration-controller",
    "apiservice-wait-for-first-sync",
    "apiservice-discovery-controller",
    "kube-apiserver-autoregistration",
)
LATE_HOOKS: Final = ("apiservice-openapi-controller", "apiservice-openapiv3-controller")


class Health:
    """The three endpoints over what the server can say about itself."""

    def __init__(self, *, etcd: Check, started: Callable[[], bool], stopping: Callable[[], bool]) -> None:
        """`etcd` checks the store; `started`: bootstrap is complete; `stopping`: the server is about to end."""

        async def fine() -> str | None:
            return None

        async def hook() -> str | None:
            return None if started() else "not finished"

        async def shutdown() -> str | None:
            return "process is shutting down" if stopping() else None

        # What /metrics/slis shows: the last result of each check, and how often there was which.
        self.registry = Registry()
        self._last = self.registry.gauge(
            "kubernetes_healthcheck",
            "[STABLE] This metric records the result of a single healthcheck.",
            ("name", "type"),
        )
        self._results = self.registry.counter(
            "kubernetes_healthchecks_total",
            "[STABLE] This metric records the results of all healthcheck.",
            ("name", "status", "type"),
        )
        hooks: list[tuple[str, Check]] = [(f"poststarthook/{name}", hook) for name in HOOKS]
        hooks.append(("autoregister-completion", hook))
        hooks += [(f"poststarthook/{name}", hook) for name in LATE_HOOKS]
        basic: list[tuple[str, Check]] = [("ping", fine), ("log", fine)]
        alive = [*basic, ("loopback-serving-certificate", fine), ("etcd", etcd), *hooks]
        ready = [*basic, ("etcd", etcd), ("etcd-readiness", etcd), ("informer-sync", hook), *hooks]
        self._groups: dict[str, Sequence[tuple[str, Check]]] = {
            "healthz": alive,
            "livez": alive,
            "readyz": [*ready, ("shutdown", shutdown)],
        }

    def add(self, checks: Sequence[tuple[str, Check]]) -> None:
        """Further checks of every endpoint."""
        for group, there in self._groups.items():
            self._groups[group] = [*there, *checks]

    def handles(self, path: str) -> bool:
        """Whether `path` is one of the endpoints."""
        return path.split("/", 2)[1] in self._groups

    async def serve(self, request: Request, path: str) -> Response | None:
        """Answer; None for a check that does not exist."""
        group, slash, single = path.lstrip("/").partition("/")
        checks = self._groups[group]
        if slash:
            checks = [(name, check) for name, check in checks if name == single]
            if not checks:
                return None
        excluded = set(request.query.get("exclude", ())) if request.raw_query else set()
        known = {name for name, _ in checks}
        lines: list[str] = []
        failed: list[str] = []
        for name, check in checks:
            if name in excluded:
                lines.append(f"[+]{name} excluded: ok")
                continue
            problem = await check()
            self._last.labels(name, group).set(0 if problem else 1)
            self._results.labels(name, "error" if problem else "success", group).inc()
            if problem is None:
                lines.append(f"[+]{name} ok")
            else:
                failed.append(name)
                log.warning("%s check failed: %s: %s", group, name, problem)
                lines.append(f"[-]{name} failed: reason withheld")
        unknown = sorted(excluded - known)
        if unknown and not single:
            lines.append(
                f"warn: some health checks cannot be excluded: no matches for {', '.join(map(_quote, unknown))}"
            )
        if failed:
            text = "\n".join([*lines, f"{group} check failed", ""])
            return Response(500, text.encode(), content_type=TEXT, headers=NOSNIFF)
        if single or "verbose" not in request.query:
            return Response(200, b"ok", content_type=TEXT, headers=() if single else NOSNIFF)
        return Response(
            200, "\n".join([*lines, f"{group} check passed", ""]).encode(), content_type=TEXT, headers=NOSNIFF
        )


def _quote(text: str) -> str:
    return f'"{text}"'
