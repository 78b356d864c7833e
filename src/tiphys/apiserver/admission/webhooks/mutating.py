"""MutatingAdmissionWebhook: webhooks that may change the object, asked one after the other.

A webhook whose reinvocationPolicy is IfNeeded is asked once more when the object was changed after its turn, by a later
webhook or by a built-in plug-in that saw a webhook's change.
https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#reinvocation-policy
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from time import perf_counter

import orjson

from tiphys.api.table import Resource
from tiphys.apiserver.admission.base import AdmissionParts, AdmissionPlugin, Object
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.admission.webhooks.ask import ask
from tiphys.apiserver.admission.webhooks.conditions import Conditions
from tiphys.apiserver.admission.webhooks.matching import EXEMPT, GROUP, Hook, Hooks, Matcher
from tiphys.apiserver.admission.webhooks.metrics import MUTATING
from tiphys.apiserver.registry.on_demand import with_conversions
from tiphys.apiserver.waits import waited
from tiphys.machinery.errors import internal_error
from tiphys.machinery.meta import join_api_version
from tiphys.machinery.patch.errors import BadPatchError, PatchError
from tiphys.machinery.patch.json import apply_json_patch


@dataclass(slots=True)
class _Memory:
    """What is remembered between the two rounds of a write."""

    asked: set[tuple[str, int]] = field(default_factory=set)  # webhooks that may be asked again
    again: set[tuple[str, int]] = field(default_factory=set)  # those that will be
    output: bytes = b""  # the object after the last webhook


class MutatingAdmissionWebhook(AdmissionPlugin):
    """Lets webhooks change what is written."""

    name = "MutatingAdmissionWebhook"

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        self._hooks = Hooks(parts.reader, "mutatingwebhookconfigurations")
        self._conditions = Conditions(parts)
        self._matcher = Matcher(parts.reader, parts.versions)
        self._caller = parts.webhooks
        self._versions = parts.versions

    def handles(self, attributes: AdmissionAttributes) -> bool:
        return not (attributes.resource.group == GROUP and attributes.resource.resource in EXEMPT)

    async def admit(self, attributes: AdmissionAttributes) -> None:
        hooks = self._hooks.all()
        if not hooks:
            return
        memory: _Memory = attributes.memory.setdefault(self.name, _Memory())
        if attributes.is_reinvocation and memory.output != _bytes(attributes.object):
            memory.again |= memory.asked
        for hook in hooks:
            if attributes.is_reinvocation and hook.id not in memory.again:
                continue
            shown_as = self._matcher.match(hook, attributes)
            if shown_as is not None and not self._conditions.hold(hook, attributes, shown_as):
                continue
            if shown_as is not None and await self._ask(hook, attributes, shown_as):
                memory.again |= memory.asked
                attributes.reinvoke = True
            if shown_as is not None and hook.spec.get("reinvocationPolicy") == "IfNeeded":
                memory.asked.add(hook.id)
        memory.output = _bytes(attributes.object)

    async def _ask(self, hook: Hook, attributes: AdmissionAttributes, shown_as: Resource) -> bool:
        """Ask one webhook; whether it changed the object."""
        began = perf_counter()
        try:
            found = await ask(hook, attributes, shown_as, self._caller, self._versions, MUTATING)
        finally:
            waited(perf_counter() - began)
        if found is None or not found.patch or attributes.object is None:
            return False
        obj = attributes.object
        before = _bytes(obj)
        resource = attributes.resource
        other = (shown_as.group, shown_as.version) != (resource.group, resource.version)
        convert, restore = self._versions.convert, self._versions.restore
        api_version = join_api_version(resource.group, resource.version)
        shown = await with_conversions(lambda: convert(obj, shown_as)) if other else orjson.loads(before)
        try:
            patched = apply_json_patch(shown, list(found.patch))
            if not isinstance(patched, dict):
                raise ValueError("the patched object is not an object")
            if attributes.subresource:
                changed: Object = patched
            else:
                changed = await with_conversions(lambda: restore(copy.deepcopy(patched), shown_as, api_version))
        except (PatchError, BadPatchError, ValueError) as error:
            raise internal_error(error) from None
        obj.clear()
        obj.update(changed)
        return _bytes(obj) != before


def _bytes(obj: Object | None) -> bytes:
    return orjson.dumps(obj)
