"""Validating and mutating webhook configurations.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from tiphys.apiserver.admission.policies.check import condition_errors
from tiphys.apiserver.registry.admissionregistration.rules import (
    FAILURE_POLICIES,
    MATCH_POLICIES,
    match_condition_errors,
    rule_errors,
)
from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.validation.selectors import validate_label_selector
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path, quote

Json = Mapping[str, Any]

REVIEW_VERSIONS: Final = ("v1", "v1beta1")
SIDE_EFFECTS: Final = ("None", "NoneOnDryRun")
URL_FORM: Final = "; desired format: https://host[/path]"
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2}).{0,2}")
_NOT_IN_HOST: Final = re.compile(r"[ \\^`{|}]")
# In seconds.
MAX_TIMEOUT: Final = 30


class ValidatingWebhookConfigurationStrategy(TableStrategy):
    """Webhooks that judge."""

    allow_unconditional_update: ClassVar[bool] = False
    strict_finalizers: ClassVar[bool] = False
    mutating: ClassVar[bool] = False

    def default(self, obj: Object) -> None:
        for webhook in obj.get("webhooks") or ():
            for name, value in (("failurePolicy", "Fail"), ("matchPolicy", "Equivalent"), ("timeoutSeconds", 10)):
                if webhook.get(name) is None:
                    webhook[name] = value
            for name in ("namespaceSelector", "objectSelector"):
                if webhook.get(name) is None:
                    webhook[name] = {}
            if self.mutating and webhook.get("reinvocationPolicy") is None:
                webhook["reinvocationPolicy"] = "Never"
            for rule in webhook.get("rules") or ():
                if rule.get("scope") is None:
                    rule["scope"] = "*"
            service = (webhook.get("clientConfig") or {}).get("service")
            if service is not None and service.get("port") is None:
                service["port"] = 443

    def validate(self, obj: Object) -> list[FieldError]:
        errors: list[FieldError] = []
        seen: set[str] = set()
        for index, webhook in enumerate(obj.get("webhooks") or ()):
            path = Path("webhooks").index(index)
            errors += _webhook_errors(webhook, path, mutating=self.mutating)
            errors += _version_errors(webhook, path.child("admissionReviewVersions"))
            name = webhook.get("name") or ""
            if name:
                if name in seen:
                    errors.append(field.duplicate(path.child("name"), name))
                seen.add(name)
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), len(obj.get("webhooks") or ()), age(obj, now)]


class MutatingWebhookConfigurationStrategy(ValidatingWebhookConfigurationStrategy):
    """Webhooks that change."""

    mutating: ClassVar[bool] = True


def _webhook_errors(webhook: Json, path: Path, *, mutating: bool) -> list[FieldError]:
    name = webhook.get("name") or ""
    errors = full_name_errors(name, path.child("name"))
    for index, rule in enumerate(webhook.get("rules") or ()):
        errors += rule_errors(rule, path.child("rules").index(index))
    errors += _one_of(webhook, "failurePolicy", FAILURE_POLICIES, path)
    errors += _one_of(webhook, "matchPolicy", MATCH_POLICIES, path)
    errors += _side_effect_errors(webhook, path.child("sideEffects"))
    timeout = webhook.get("timeoutSeconds")
    if timeout is not None and not 1 <= timeout <= MAX_TIMEOUT:
        detail = f"the timeout value must be between 1 and {MAX_TIMEOUT} seconds"
        errors.append(field.invalid(path.child("timeoutSeconds"), timeout, detail))
    for selector in ("namespaceSelector", "objectSelector"):
        errors += validate_label_selector(webhook.get(selector), path.child(selector))
    if mutating:
        errors += _one_of(webhook, "reinvocationPolicy", ("IfNeeded", "Never"), path)
    errors += client_errors(webhook.get("clientConfig") or {}, path.child("clientConfig"), crossed=True)
    where = path.child("matchConditions")
    return errors + match_condition_errors(webhook.get("matchConditions") or (), where, condition_errors)


def full_name_errors(name: str, path: Path) -> list[FieldError]:
    """A domain of at least three labels."""
    if not name:
        return [field.required(path, "")]
    return [field.invalid(path, name, message) for message in formats.fully_qualified_name(name, 3)]


def _one_of(webhook: Json, name: str, allowed: Sequence[str], path: Path) -> list[FieldError]:
    value = webhook.get(name)
    if value is None or value in allowed:
        return []
    return [field.not_supported(path.child(name), value, allowed)]


def _side_effect_errors(webhook: Json, path: Path) -> list[FieldError]:
    value = webhook.get("sideEffects")
    if not value:
        return [field.required(path, f"must specify one of {', '.join(SIDE_EFFECTS)}")]
    return [] if value in SIDE_EFFECTS else [field.not_supported(path, value, SIDE_EFFECTS)]


def _version_errors(webhook: Json, path: Path) -> list[FieldError]:
    versions = list(webhook.get("admissionReviewVersions") or ())
    if not versions:
        return [field.required(path, f"must specify one of {', '.join(REVIEW_VERSIONS)}")]
    errors: list[FieldError] = []
    for index, version in enumerate(versions):
        if version in versions[:index]:
            errors.append(field.invalid(path.index(index), version, "duplicate version"))
            continue
        errors.extend(field.invalid(path.index(index), version, message) for message in formats.dns1035_label(version))
    if not set(versions) & set(REVIEW_VERSIONS):
        detail = f"must include at least one of {', '.join(REVIEW_VERSIONS)}"
        errors.append(field.invalid(path, versions, detail))
    return errors


def client_errors(config: Json, path: Path, *, crossed: bool = False) -> list[FieldError]:
    """Where a webhook is: a URL or a service.

    `crossed`: a missing name of the service is told of its namespace, and the other way round, as the API does for
    admission webhooks.
    """
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        return [field.required(path, "exactly one of url or service is required")]
    if url is not None:
        return url_errors(url, path.child("url"))
    told = dict(service or {})
    if crossed:
        told |= {"name": told.get("namespace"), "namespace": told.get("name")}
    return service_errors(told, path.child("service"))


def url_errors(url: str, path: Path) -> list[FieldError]:
    """An https URL without user, query or fragment."""
    if problem := _url_problem(url):
        return [field.required(path, f"url must be a valid URL: parse {quote(url)}: {problem}{URL_FORM}")]
    parts = urlsplit(url)
    errors: list[FieldError] = []
    if parts.scheme != "https":
        detail = f"'https' is the only allowed URL scheme{URL_FORM}"
        errors.append(field.invalid(path, parts.scheme, detail))
    if not parts.netloc:
        errors.append(field.invalid(path, parts.netloc, f"host must be specified{URL_FORM}"))
    if parts.username is not None:
        errors.append(
            field.invalid(path, parts.netloc.rpartition("@")[0], "user information is not permitted in the URL")
        )
    if parts.fragment:
        errors.append(field.invalid(path, parts.fragment, "fragments are not permitted in the URL"))
    if parts.query:
        errors.append(field.invalid(path, parts.query, "query parameters are not permitted in the URL"))
    return errors


def _url_problem(url: str) -> str:
    """Why a text is no URL at all; "" for one that is."""
    if any(char < " " or char == "\x7f" for char in url):
        return "net/url: invalid control character in URL"
    if match := _BAD_ESCAPE.search(url):
        return f"invalid URL escape {quote(match[0])}"
    try:
        host = urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:  # only brackets make it fail
        return "missing ']' in host"
    if match := _NOT_IN_HOST.search(host):
        return f"invalid character {quote(match[0])} in host name"
    port = host.rpartition("]")[2].partition(":")[1:]
    return "" if not port[1].strip("0123456789") else f"invalid port {quote(''.join(port))} after host"


def service_errors(service: Json, path: Path) -> list[FieldError]:
    """A reference to a service: name, namespace, port, and a path below it."""
    errors: list[FieldError] = []
    errors.extend(field.required(path.child(name), "") for name in ("name", "namespace") if not service.get(name))
    port = service.get("port", 443)
    errors.extend(
        field.invalid(path.child("port"), port, f"port is not valid: {message}")
        for message in formats.port_number(port)
    )
    text = service.get("path")
    where = path.child("path")
    if text in (None, "", "/"):
        return errors
    if not text.startswith("/"):
        errors.append(field.invalid(where, text, "must start with a '/'"))
    for index, segment in enumerate(text[1:].split("/")):
        if not segment and index == text.count("/") - 1 and text.endswith("/"):
            continue
        if not segment:
            errors.append(field.invalid(where, text, f"segment[{index}] may not be empty"))
            continue
        errors.extend(
            field.invalid(where, text, f"segment[{index}]: {message}") for message in formats.dns1123_subdomain(segment)
        )
    return errors
