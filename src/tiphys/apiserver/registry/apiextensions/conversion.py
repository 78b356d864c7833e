"""spec.conversion of a CustomResourceDefinition: who converts between its versions.

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.admissionregistration.webhooks import client_errors
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

STRATEGIES: Final = ("None", "Webhook")
REVIEW_VERSIONS: Final = ("v1", "v1beta1")
UNWANTED: Final = "should not be set when strategy is not set to Webhook"


def conversion_errors(conversion: Json, path: Path) -> list[FieldError]:
    """What is wrong with it. Errors name the fields of the webhook as the first versions of the API had them."""
    strategy = conversion.get("strategy") or ""
    if not strategy:
        return [field.required(path.child("strategy"))]
    if strategy not in STRATEGIES:
        return [field.not_supported(path.child("strategy"), strategy, STRATEGIES)]
    webhook = conversion.get("webhook") or {}
    client, versions = webhook.get("clientConfig"), webhook.get("conversionReviewVersions") or ()
    at, versions_at = path.child("webhookClientConfig"), path.child("conversionReviewVersions")
    if strategy != "Webhook":
        given = ((client is not None, at), (bool(versions), versions_at))
        return [field.forbidden(where, UNWANTED) for there, where in given if there]
    errors = [field.required(at, "required when strategy is set to Webhook")] if client is None else []
    if client is not None:
        errors += client_errors(client, at)
    return errors + _version_errors(versions, versions_at)


def _version_errors(versions: Sequence[str], path: Path) -> list[FieldError]:
    if not versions:
        return [field.required(path)]
    errors: list[FieldError] = []
    for index, version in enumerate(versions):
        if version in versions[:index]:
            errors.append(field.invalid(path.index(index), version, "duplicate version"))
            continue
        errors += [field.invalid(path.index(index), version, message) for message in formats.dns1035_label(version)]
    if not errors and not set(versions) & set(REVIEW_VERSIONS):
        errors.append(field.invalid(path, list(versions), f"must include at least one of {', '.join(REVIEW_VERSIONS)}"))
    return errors
