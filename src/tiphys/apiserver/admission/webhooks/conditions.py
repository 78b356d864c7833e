"""Match conditions of webhooks: expressions that must all hold before a webhook is asked.

One that is false decides, whatever the others say; failing that, one that cannot be evaluated is a failure of the
webhook, and its failurePolicy says what becomes of it.
https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#matching-requests-matchconditions
"""

from __future__ import annotations

from functools import lru_cache

from tiphys.api.table import Resource
from tiphys.apiserver.admission.base import AdmissionParts, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.admission.policies.asked import Asker, evaluate
from tiphys.apiserver.admission.policies.compiled import CONDITION_VARIABLES, Expression, expression
from tiphys.apiserver.admission.webhooks.matching import Hook, Matcher
from tiphys.machinery.cel.errors import EvalError


@lru_cache(maxsize=1024)
def _compiled(source: str) -> Expression:
    return expression(source, CONDITION_VARIABLES)


class Conditions:
    """Judges writes by the conditions of webhooks."""

    def __init__(self, parts: AdmissionParts) -> None:
        self._asker = Asker(parts, Matcher(parts.reader, parts.versions))

    def hold(self, hook: Hook, attributes: AdmissionAttributes, shown: Resource) -> bool:
        """Whether a webhook whose rules match is to be asked. StatusError (403) when that cannot be told."""
        conditions = hook.spec.get("matchConditions") or ()
        if not conditions:
            return True
        variables = self._asker.base_variables(attributes, shown)
        problems: list[str] = []
        for one in conditions:
            try:
                if evaluate(_compiled(one.get("expression", "")), variables) is not True:
                    return False
            except EvalError as error:
                problems.append(str(error))
        if not problems:
            return True
        if hook.ignores_failures:
            return False
        raise refuse(attributes, problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]")
