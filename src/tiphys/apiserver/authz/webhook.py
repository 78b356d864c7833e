"""A service outside judges requests: a SubjectAccessReview is posted to it, and its verdict remembered for a while.

Authorizers are asked from memory; what is not there yet is `Undecided`, and asked for by whoever can wait.
https://kubernetes.io/docs/reference/access-authn-authz/webhook/
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from tiphys.apiserver.access_metrics import conditions_failed, webhook_asked, webhook_spared
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authn.webhook import FIRST_WAIT, post_again
from tiphys.apiserver.authz.interface import Attributes, Decision, Undecided, Verdict
from tiphys.apiserver.authz.resolve import Resolved
from tiphys.apiserver.http.remote import RemoteError, RemoteService
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.machinery.cel.errors import EvalError
from tiphys.machinery.cel.program import Program
from tiphys.machinery.cel.types import STRING, Type, list_of, map_of
from tiphys.machinery.selectors import FieldSelector, LabelSelector

log = get_logger(__name__)

Object = dict[str, Any]
GROUP: Final = "authorization.k8s.io"
REMEMBERED: Final = 10_000
# An answer is kept at least until whoever asked for it has read it, however short the time to live.
LEAST_KEPT: Final = 1.0  # seconds
_OPERATORS: Final = {
    **dict.fromkeys(("=", "==", "in"), "In"),
    **dict.fromkeys(("!=", "notin"), "NotIn"),
    "exists": "Exists",
    "!": "DoesNotExist",
    "gt": "Gt",
    "lt": "Lt",
}
_REQUIREMENT: Final = Type(
    "object",
    name="kubernetes.SelectorRequirement",
    fields={"key": STRING, "operator": STRING, "values": list_of(STRING)},
)
_SELECTOR: Final = Type(
    "object",
    name="kubernetes.SelectorAttributes",
    fields={"rawSelector": STRING, "requirements": list_of(_REQUIREMENT)},
)
_RESOURCE: Final = Type(
    "object",
    name="kubernetes.ResourceAttributes",
    fields={
        **dict.fromkeys(("namespace", "verb", "group", "version", "resource", "subresource", "name"), STRING),
        "fieldSelector": _SELECTOR,
        "labelSelector": _SELECTOR,
    },
)
VARIABLES: Final[Mapping[str, Type]] = {
    "request": Type(
        "object",
        name="kubernetes.SubjectAccessReviewSpec",
        fields={
            "resourceAttributes": _RESOURCE,
            "nonResourceAttributes": Type(
                "object", name="kubernetes.NonResourceAttributes", fields={"path": STRING, "verb": STRING}
            ),
            "user": STRING,
            "groups": list_of(STRING),
            "extra": map_of(STRING, list_of(STRING)),
            "uid": STRING,
        },
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookOptions:
    """How a webhook is asked. Times in seconds."""

    name: str = ""
    version: str = "v1"
    timeout: float = 30.0
    authorized_ttl: float = 300.0
    unauthorized_ttl: float = 30.0
    cache_authorized: bool = True
    cache_unauthorized: bool = True
    denies_on_failure: bool = False
    conditions: Sequence[Program] = ()
    first_wait: float = FIRST_WAIT


def review_spec(attributes: Attributes) -> Object:
    """The question as the spec of a SubjectAccessReview."""
    spec: Object = {}
    if attributes.resource_request:
        parts = {
            "namespace": attributes.namespace,
            "verb": attributes.verb,
            "group": attributes.api_group,
            "version": attributes.api_version,
            "resource": attributes.resource,
            "subresource": attributes.subresource,
            "name": attributes.name,
            "fieldSelector": _field_requirements(attributes.field_selector),
            "labelSelector": _label_requirements(attributes.label_selector),
        }
        spec["resourceAttributes"] = {key: value for key, value in parts.items() if value}
    else:
        spec["nonResourceAttributes"] = {"path": attributes.path, "verb": attributes.verb}
    user = attributes.user
    shown = {
        "user": user.name,
        "groups": list(user.groups),
        "extra": {key: list(values) for key, values in user.extra.items()},
        "uid": user.uid,
    }
    return spec | {key: value for key, value in shown.items() if value}


def _field_requirements(selector: str) -> Object | None:
    """Requirements of a field selector; of one that cannot be read none, which never allows more."""
    if not selector:
        return None
    try:
        parts = FieldSelector.parse(selector).requirements
    except ValueError:
        return None
    found = [
        {"key": one.field, "operator": "In" if one.operator == "=" else "NotIn", "values": [one.value]} for one in parts
    ]
    return {"requirements": found} if found else None


def _label_requirements(selector: str) -> Object | None:
    if not selector:
        return None
    try:
        parts = LabelSelector.parse(selector).requirements
    except (ValueError, KeyError):
        return None
    found = []
    for one in parts:
        shown: Object = {"key": one.key, "operator": _OPERATORS[one.operator]}
        if one.values:
            shown["values"] = sorted(one.values)
        found.append(shown)
    return {"requirements": found} if found else None


class WebhookAuthorizer:
    """Implements `Authorizer`."""

    def __init__(self, service: RemoteService, options: WebhookOptions, clock: Clock) -> None:
        self._service = service
        self._options = options
        self._clock = clock
        self._answers: dict[bytes, tuple[float, Decision]] = {}
        self._asking: dict[bytes, asyncio.Task[None]] = {}

    def authorize(self, attributes: Attributes) -> Decision:
        """See `Authorizer`. Raises Undecided while there is no answer."""
        spec = review_spec(attributes)
        matches = self._matches(spec)
        if isinstance(matches, Decision):
            return matches
        key = orjson.dumps(spec, option=orjson.OPT_SORT_KEYS)
        known = self._answers.get(key)
        if known is not None and self._clock.monotonic() < known[0]:
            return known[1]
        raise Undecided(lambda: self._ask_once(key, spec))

    def resolved(self, user: UserInfo, namespace: str) -> Resolved:
        """See `Resolver`."""
        return Resolved(incomplete=True, problem="webhook authorizer does not support user rule resolution")

    def _matches(self, spec: Object) -> Decision | None:
        """The decision when the conditions spare the webhook; None when it is to be asked."""
        problem = ""
        for program in self._options.conditions:
            try:
                if program.evaluate({"request": spec}) is not True:
                    webhook_spared(self._options.name)
                    return Decision(Verdict.NO_OPINION)
            except EvalError as error:
                problem = problem or str(error)
        if not problem:
            return None
        conditions_failed(self._options.name)
        return self._failed(problem)

    def _failed(self, problem: str) -> Decision:
        log.error("Failed to make webhook authorizer request: %s", problem)
        return Decision(Verdict.DENY if self._options.denies_on_failure else Verdict.NO_OPINION, problem)

    async def _ask_once(self, key: bytes, spec: Object) -> None:
        """Ask; those who want to know the same meanwhile wait for the same answer."""
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, spec), name="authorization-webhook")
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        await asyncio.shield(task)

    async def _ask(self, key: bytes, spec: Object) -> None:
        options = self._options
        review = {
            "kind": "SubjectAccessReview",
            "apiVersion": f"{GROUP}/{options.version}",
            "metadata": {},
            "spec": _older(spec) if options.version == "v1beta1" else spec,
        }
        began, result = self._clock.monotonic(), "success"
        try:
            async with asyncio.timeout(options.timeout):
                body = await post_again(self._service, orjson.dumps(review), self._clock, options.first_wait)
            answer = orjson.loads(body)
            decision, ttl = self._decision(answer.get("status") or {})
        except TimeoutError:
            result = "timeout"
            decision, ttl = self._failed(f'Post "{self._service.url}": context deadline exceeded'), 0.0
        except (RemoteError, ValueError, AttributeError) as error:
            result = "error"
            decision, ttl = self._failed(str(error)), 0.0
        seconds = self._clock.monotonic() - began
        webhook_asked(options.name, result, seconds, fails_open=not options.denies_on_failure)
        if len(self._answers) >= REMEMBERED:
            self._answers.clear()
        self._answers[key] = (self._clock.monotonic() + max(ttl, LEAST_KEPT), decision)

    def _decision(self, status: Mapping[str, Any]) -> tuple[Decision, float]:
        options, reason = self._options, str(status.get("reason") or "")
        if status.get("allowed") and status.get("denied"):
            raise ValueError("webhook subject access review returned both allow and deny response")
        if status.get("allowed"):
            return Decision(Verdict.ALLOW, reason), options.authorized_ttl if options.cache_authorized else 0.0
        verdict = Verdict.DENY if status.get("denied") else Verdict.NO_OPINION
        return Decision(verdict, reason), options.unauthorized_ttl if options.cache_unauthorized else 0.0

    async def close(self) -> None:
        """End what is under way, and the connections."""
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*list(self._asking.values()), return_exceptions=True)
        await self._service.close()


def _older(spec: Object) -> Object:
    """v1beta1 calls the groups `group`."""
    return {("group" if key == "groups" else key): value for key, value in spec.items()}
