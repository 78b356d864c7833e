"""Asking one webhook, and what becomes of its failure."""

from __future__ import annotations

from typing import Final

from tiphys.api.table import Resource
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.admission.webhooks.interface import CallError, Versions, WebhookCaller
from tiphys.apiserver.admission.webhooks.matching import Hook
from tiphys.apiserver.admission.webhooks.review import Answer, answer, denied, question
from tiphys.apiserver.registry.on_demand import with_conversions
from tiphys.base.log import get_logger
from tiphys.machinery.errors import bad_request, internal_error

log = get_logger(__name__)
ALLOWED: Final = Answer(True, {})


async def ask(
    hook: Hook, attributes: AdmissionAttributes, shown_as: Resource, caller: WebhookCaller, versions: Versions
) -> Answer | None:
    """The webhook's answer; None when it failed and that is to be ignored.

    StatusError when it refuses, when it fails and failures refuse (500), or has side effects on a dry run (400).
    """
    if attributes.dry_run and hook.has_side_effects:
        raise bad_request(f'admission webhook "{hook.name}" does not support dry run')
    try:
        review_versions = hook.spec.get("admissionReviewVersions") or ()
        uid, api_version, body = await with_conversions(
            lambda: question(attributes, shown_as, versions, review_versions)
        )
        data = await caller.call(hook.spec.get("clientConfig") or {}, body, hook.timeout)
        found = answer(data, uid, api_version)
    except CallError as error:
        if hook.ignores_failures:
            log.warning('failed calling webhook "%s", ignored: %s', hook.name, error)
            return None
        raise internal_error(f'failed calling webhook "{hook.name}": {error}') from None
    attributes.warnings += found.warnings
    for key, value in found.annotations.items():
        attributes.annotations[f"{hook.name}/{key}"] = value
    if not found.allowed:
        raise denied(hook.name, found.status)
    return found
