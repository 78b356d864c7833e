"""Auditor: what the handler tells about each request, and where that goes."""

from __future__ import annotations

from typing import Any

from tiphys.apiserver.audit.backend import Backend, Batching, Blocking, Sink, Truncating
from tiphys.apiserver.audit.logfile import LogFile
from tiphys.apiserver.audit.options import AuditOptions, BatchOptions, TruncateOptions
from tiphys.apiserver.audit.policy import Level, Policy, load_policy
from tiphys.apiserver.audit.record import Record
from tiphys.apiserver.audit.webhook import Webhook
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.configfile import ConfigError, joined
from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.http.remote import RemoteService
from tiphys.apiserver.http.request import Request
from tiphys.base.clock import Clock
from tiphys.base.metrics import REGISTRY

Object = dict[str, Any]
NOBODY = UserInfo("")


class Auditor:
    """Records requests by a policy; `start` before the first, `stop` after the last."""

    def __init__(self, policy: Policy, backends: list[Backend], clock: Clock) -> None:
        self._policy = policy
        self._backends = backends
        self._clock = clock
        self._events = REGISTRY.counter(
            "apiserver_audit_event_total", "Counter of audit events generated and sent to the audit backend."
        ).labels()
        self._levels = REGISTRY.counter(
            "apiserver_audit_level_total", "Counter of policy levels for audit events (1 per request).", ("level",)
        )

    def begin(self, request: Request, info: RequestInfo, user: UserInfo) -> Record | None:
        """A request of `user` has arrived; None when nothing is recorded of it."""
        record = self._record(request, info, user, user)
        if record is not None:
            record.received()
        return record

    def refused(self, request: Request, info: RequestInfo) -> Record | None:
        """A request has arrived of whom nobody knows who sent it; only its answer is recorded."""
        return self._record(request, info, NOBODY, None)

    def _record(self, request: Request, info: RequestInfo, user: UserInfo, shown: UserInfo | None) -> Record | None:
        choice = self._policy.choose(user, info)
        self._levels.labels(choice.level.text).inc()
        if choice.level is Level.NONE:
            return None
        return Record(choice, request, info, shown, self._clock.now(), self._emit)

    def _emit(self, event: Object) -> None:
        self._events.inc()
        for backend in self._backends:
            backend.emit(event)

    async def flush(self) -> None:
        """See `Backend.flush`."""
        for backend in self._backends:
            await backend.flush()

    def start(self) -> None:
        """Begin to write."""
        for backend in self._backends:
            if isinstance(backend, Batching):
                backend.start()

    async def stop(self) -> None:
        """Write what is left."""
        for backend in self._backends:
            await backend.stop()


def auditor(options: AuditOptions, clock: Clock) -> Auditor | None:
    """The auditor the options ask for; None without. Raises ConfigError, worded as upstream's."""
    problems = list(options.problems())
    if problems:
        raise ConfigError(joined(problems))
    if options.policy is None:
        return None
    policy = load_policy(options.policy)
    backends: list[Backend] = []
    if options.log_path:
        try:
            file = LogFile(options, clock)
        except OSError as error:
            raise ConfigError(f"ensureLogFile: open {options.log_path}: {error.strerror}") from None
        backends.append(_backend(file, options.log_mode, options.log_batch, options.log_truncate, clock))
    if options.webhook is not None:
        try:
            service = RemoteService.from_kubeconfig(options.webhook)
        except ConfigError as error:
            raise ConfigError(f"initializing audit webhook: {error}") from None
        sink = Webhook(service, options.webhook_initial_backoff, clock)
        backends.append(_backend(sink, options.webhook_mode, options.webhook_batch, options.webhook_truncate, clock))
    return Auditor(policy, backends, clock) if backends else None


def _backend(sink: Sink, mode: str, batch: BatchOptions, truncate: TruncateOptions, clock: Clock) -> Backend:
    if truncate.enabled:
        sink = Truncating(sink, truncate)
    if mode == "batch":
        return Batching(sink, batch, clock)
    return Blocking(sink, strict=mode == "blocking-strict")
