"""ValidatingAdmissionWebhook: webhooks that judge, all asked at the same time."""

from __future__ import annotations

import asyncio
from time import perf_counter

from tiphys.apiserver.admission.base import AdmissionParts, AdmissionPlugin
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.admission.webhooks.ask import ask
from tiphys.apiserver.admission.webhooks.conditions import Conditions
from tiphys.apiserver.admission.webhooks.matching import EXEMPT, GROUP, Hooks, Matcher
from tiphys.apiserver.admission.webhooks.metrics import VALIDATING
from tiphys.apiserver.waits import waited


class ValidatingAdmissionWebhook(AdmissionPlugin):
    """Refuses what one of the webhooks refuses."""

    name = "ValidatingAdmissionWebhook"

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        self._hooks = Hooks(parts.reader, "validatingwebhookconfigurations")
        self._conditions = Conditions(parts)
        self._matcher = Matcher(parts.reader, parts.versions)
        self._caller = parts.webhooks
        self._versions = parts.versions

    def handles(self, attributes: AdmissionAttributes) -> bool:
        return not (attributes.resource.group == GROUP and attributes.resource.resource in EXEMPT)

    async def validate(self, attributes: AdmissionAttributes) -> None:
        asked = []
        for hook in self._hooks.all():
            shown_as = self._matcher.match(hook, attributes)
            if shown_as is not None and self._conditions.hold(hook, attributes, shown_as):
                asked.append(ask(hook, attributes, shown_as, self._caller, self._versions, VALIDATING))
        if not asked:
            return
        began = perf_counter()
        try:
            results = await asyncio.gather(*asked, return_exceptions=True) if len(asked) > 1 else [await asked[0]]
        finally:
            waited(perf_counter() - began)
        for result in results:
            if isinstance(result, BaseException):
                raise result
