"""Asking one webhook, and what becomes of its failure."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from tiphys.api.table import Resource
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.admission.webhooks.interface import CallError, Versions, WebhookCaller
from tiphys.apiserver.admission.webhooks.matching import Hook
from tiphys.apiserver.admission.webhooks.metrics import CALLING, NO_ERROR, asked, failed_open
from tiphys.apiserver.admission.webhooks.review import Answer, answer, denied, question
from tiphys.apiserver.registry.on_demand import with_conversions
from tiphys.base.log import get_logger
from tiphys.machinery.errors import bad_request, internal_error

log = get_logger(__name__)
ALLOWED: Final = Answer(True, {})
UNAVAILABLE: Final = 503  # how the failure to ask is counted


async def ask(
    hook: Hook,
    attributes: AdmissionAttributes,
    shown_as: Resource,
    caller: WebhookCaller,
    versions: Versions,
    kind: str,
) -> Answer | None:
    """The webhook's answer; None when it failed and that is to be ignored. `kind`: as its metrics name it.

    StatusError when it refuses, when it fails and failures refuse (500), or has side effects on a dry run (400).
    """
    if attributes.dry_run and hook.has_side_effects:
        raise bad_request(f'admission webhook "{hook.name}" does not support dry run')
    operation = attributes.operation.value
    began = perf_counter()
    try:
        review_versions = hook.spec.get("admissionReviewVersions") or ()
        uid, api_version, body = await with_conversions(
            lambda: question(attributes, shown_as, versions, review_versions)
        )
        data = await caller.call(hook.spec.get("clientConfig") or {}, body, hook.timeout)
        found = answer(data, uid, api_version)
    except CallError as error:
        asked(
            hook.name,
            operation,
            kind,
            perf_counter() - began,
            code=UNAVAILABLE,
            error="" if hook.ignores_failures else CALLING,
        )
        if hook.ignores_failures:
            failed_open(hook.name, kind)
            log.warning('failed calling webhook "%s", ignored: %s', hook.name, error)
            return None
        raise internal_error(f'failed calling webhook "{hook.name}": {error}') from None
    attributes.warnings += found.warnings
    for key, value in found.annotations.items():
        attributes.annotations[f"{hook.name}/{key}"] = value
    seconds = perf_counter() - began
    if not found.allowed:
        refusal = denied(hook.name, found.status)
        asked(hook.name, operation, kind, seconds, code=refusal.code, error=NO_ERROR)
        raise refusal
    asked(hook.name, operation, kind, seconds)
    return found
