"""AuthorizationConfiguration: the authorizers in order, from a file or from flags.

https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/#apiserver-config-k8s-io-v1-AuthorizationConfiguration
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tiphys.apiserver.authz.abac import AbacAuthorizer
from tiphys.apiserver.authz.webhook import VARIABLES, WebhookOptions
from tiphys.apiserver.configfile import (
    NOT_A_SUBDOMAIN,
    SUBDOMAIN,
    ConfigError,
    check_kind,
    document,
    joined,
    read,
    strict_error,
    unknown_fields,
)
from tiphys.apiserver.http.remote import RemoteService
from tiphys.machinery import field
from tiphys.machinery.cel.errors import CelSyntaxError
from tiphys.machinery.cel.program import Program, compile_expression
from tiphys.machinery.field import FieldError
from tiphys.machinery.field import Path as FieldPath
from tiphys.machinery.time import parse_duration_ns

Object = Mapping[str, Any]
VERSIONS: Final = ("apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1")
SCHEME: Final = "k8s.io/apiserver/pkg/apis/apiserver/install/install.go"
TYPES: Final = ("AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook")
_TIMES: Final = ("timeout", "authorizedTTL", "unauthorizedTTL")
_WEBHOOK: Final = {
    **dict.fromkeys(_TIMES),
    **dict.fromkeys(("cacheAuthorizedRequests", "cacheUnauthorizedRequests")),
    **dict.fromkeys(("subjectAccessReviewVersion", "matchConditionSubjectAccessReviewVersion", "failurePolicy")),
    "connectionInfo": dict.fromkeys(("type", "kubeConfigFile")),
    "matchConditions": [{"expression": None}],
}
SHAPE: Final = {
    **dict.fromkeys(("apiVersion", "kind")),
    "authorizers": [{"type": None, "name": None, "webhook": _WEBHOOK}],
}
NOT_A_NAME: Final = f"authorizer name is invalid: {NOT_A_SUBDOMAIN}"


@dataclass(frozen=True, slots=True)
class Configured:
    """One authorizer: its type, for a webhook whom to ask and how, for ABAC the policies."""

    type: str
    service: RemoteService | None = None
    options: WebhookOptions | None = None
    abac: AbacAuthorizer | None = None


def load_configuration(path: Path) -> list[Configured]:
    """The authorizers of a file. Raises ConfigError, worded as upstream's."""
    try:
        data = read(path)
    except ConfigError as error:
        raise ConfigError(f"failed to load AuthorizationConfiguration from file: {error}") from None
    return configuration_from(data)


def configuration_from(data: bytes, old: Sequence[str] | None = None) -> list[Configured]:
    """The authorizers of the content of a file; `old`: see check_change. Raises ConfigError, worded as upstream's."""
    try:
        found = document(data)
        check_kind(found, "AuthorizationConfiguration", VERSIONS, SCHEME)
        problem = strict_error(unknown_fields(found, SHAPE))
        if problem:
            raise ConfigError(problem)
    except ConfigError as error:
        raise ConfigError(f"failed to load AuthorizationConfiguration from file: {error}") from None
    configured = authorizers_of(found)
    if old is not None:
        check_change(found, old)
    return configured


def authorizers_of(found: Object) -> list[Configured]:
    """The authorizers of a document. Raises ConfigError with every problem."""
    items = found.get("authorizers") or ()
    if not items:
        raise ConfigError("authorizers: Required value: at least one authorization mode must be defined")
    reader = _Reader()
    configured = [reader.authorizer(one, FieldPath("authorizers").index(index)) for index, one in enumerate(items)]
    if reader.errors:
        raise ConfigError(joined(reader.errors))
    return configured


def check_change(new: Object, old: Sequence[str]) -> None:
    """Refuse a document that changes more than webhooks and the order; `old` are the types the server began with.

    Whoever is to do with or without RBAC is told at the start. Raises ConfigError.
    """
    found = [(str(one.get("type") or ""), str(one.get("name") or "")) for one in new.get("authorizers") or ()]
    problems = [
        f"expected name {kind.lower()} for authorizer {kind} instead of {name}"
        for kind, name in found
        if kind != "Webhook" and name != kind.lower()
    ]
    types = {kind for kind, _ in found}
    missing = [kind for kind in sorted(set(old)) if kind != "Webhook" and kind not in types]
    if missing:
        problems.append(f"missing required types: [{' '.join(missing)}]")
    if problems:
        raise ConfigError(joined(problems))
    for kind, _ in found:
        if kind in ("ABAC", "Node", "RBAC") and kind not in old:
            raise ConfigError(f"authorizer type {kind} is not allowed if it was not enabled at initial server startup")


class _Reader:
    """Reads authorizers, collecting what is wrong."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []
        self._types: set[str] = set()
        self._names: set[str] = set()

    def authorizer(self, one: Object, path: FieldPath) -> Configured:
        """One item of `authorizers`."""
        kind, name, webhook = one.get("type") or "", one.get("name") or "", one.get("webhook")
        if not kind:
            self.errors.append(field.required(path.child("type")))
        elif kind not in TYPES:
            self.errors.append(field.not_supported(path.child("type"), kind, TYPES))
            return Configured(kind)
        elif kind in self._types and kind != "Webhook":
            self.errors.append(field.duplicate(path.child("type"), kind))
        self._types.add(kind)
        if not name:
            self.errors.append(field.required(path.child("name")))
        elif name in self._names:
            self.errors.append(field.duplicate(path.child("name"), name))
        elif not SUBDOMAIN.fullmatch(name):
            self.errors.append(field.invalid(path.child("name"), name, NOT_A_NAME))
        self._names.add(name)
        if kind != "Webhook":
            if webhook is not None:
                message = "may only be specified when type=Webhook"
                self.errors.append(field.invalid(path.child("webhook"), "non-null", message))
            return Configured(kind)
        if webhook is None:
            self.errors.append(field.required(path.child("webhook"), "required when type=Webhook"))
            return Configured(kind)
        return self._webhook(name, webhook, path)

    def _webhook(self, name: str, webhook: Object, path: FieldPath) -> Configured:
        timeout, authorized, unauthorized = (self._time(webhook, key, path) for key in _TIMES)
        for key, allowed in (
            ("subjectAccessReviewVersion", ("v1", "v1beta1")),
            ("failurePolicy", ("NoOpinion", "Deny")),
        ):
            self._one_of(webhook.get(key), allowed, path.child(key))
            if key == "subjectAccessReviewVersion" and (
                webhook.get("matchConditions") or webhook.get("matchConditionSubjectAccessReviewVersion")
            ):
                other = "matchConditionSubjectAccessReviewVersion"
                self._one_of(webhook.get(other), ("v1",), path.child(other))
        service = self._service(webhook.get("connectionInfo") or {}, path.child("connectionInfo"))
        conditions = self._conditions(webhook.get("matchConditions") or (), path.child("matchConditions"))
        options = WebhookOptions(
            name=name,
            version=webhook.get("subjectAccessReviewVersion") or "v1",
            timeout=timeout,
            authorized_ttl=authorized,
            unauthorized_ttl=unauthorized,
            cache_authorized=webhook.get("cacheAuthorizedRequests") is not False,
            cache_unauthorized=webhook.get("cacheUnauthorizedRequests") is not False,
            denies_on_failure=webhook.get("failurePolicy") == "Deny",
            conditions=conditions,
        )
        return Configured("Webhook", service, options)

    def _time(self, webhook: Object, key: str, path: FieldPath) -> float:
        default = {"authorizedTTL": "5m", "unauthorizedTTL": "30s"}.get(key)
        text = webhook.get(key)
        if text in (None, "", "0s") and default is not None:
            text = default
        if text in (None, ""):
            self.errors.append(field.required(path.child(key)))
            return 1.0
        try:
            seconds = parse_duration_ns(str(text)) / 1e9
        except ValueError as error:
            self.errors.append(field.invalid(path.child(key), text, str(error)))
            return 1.0
        if key == "timeout" and not 0 < seconds <= 30:
            self.errors.append(field.invalid(path.child(key), text, "must be > 0s and <= 30s"))
        elif seconds <= 0:
            self.errors.append(field.invalid(path.child(key), text, "must be > 0s"))
        return seconds

    def _one_of(self, found: str | None, allowed: Sequence[str], at: FieldPath) -> None:
        if not found:
            self.errors.append(field.required(at))
        elif found not in allowed:
            self.errors.append(field.not_supported(at, found, allowed))

    def _service(self, info: Object, at: FieldPath) -> RemoteService | None:
        kind, file = info.get("type") or "", info.get("kubeConfigFile")
        if not kind:
            self.errors.append(field.required(at.child("type")))
        elif kind not in ("InClusterConfig", "KubeConfigFile"):
            shown = {"Type": kind, "KubeConfigFile": file}
            allowed = ("InClusterConfig", "KubeConfigFile")
            self.errors.append(field.not_supported(at.child("type"), shown, allowed))
        elif kind == "InClusterConfig":
            message = "is of no use to the API server itself; name a kubeconfig"
            self.errors.append(field.invalid(at.child("type"), kind, message))
        elif not file:
            self.errors.append(field.required(at.child("kubeConfigFile")))
        elif not Path(file).is_absolute():
            self.errors.append(field.invalid(at.child("kubeConfigFile"), file, "must be an absolute path"))
        else:
            try:
                return RemoteService.from_kubeconfig(Path(file))
            except ConfigError as error:
                message = f"error loading file: {error}"
                self.errors.append(field.invalid(at.child("kubeConfigFile"), file, message))
        return None

    def _conditions(self, found: Sequence[Object], at: FieldPath) -> list[Program]:
        programs = []
        for index, one in enumerate(found):
            source, where = one.get("expression") or "", at.index(index).child("expression")
            if not source:
                self.errors.append(field.required(where))
                continue
            try:
                program = compile_expression(source, VARIABLES)
            except CelSyntaxError as error:
                self.errors.append(field.invalid(where, source, f"compilation failed: {error}"))
                continue
            if program.type.kind not in ("bool", "dyn"):
                self.errors.append(field.invalid(where, source, f"must evaluate to bool but got {program.type}"))
            programs.append(program)
        return programs
