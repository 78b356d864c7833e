"""Which devices a request takes: CEL expressions over one device, each answered once a device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from tiphys.api.resource.v1 import DeviceSelector
from tiphys.machinery.cel.devices import DEVICE
from tiphys.machinery.cel.errors import EvalError
from tiphys.machinery.cel.kubernetes import semver
from tiphys.machinery.cel.program import Program, compile_expression
from tiphys.scheduler.dra.inventory import Offer, value_of

COST_LIMIT: Final = 1_000_000


class SelectorError(Exception):
    """An expression that fails for a device: the user must hear of it."""


class Selectors:
    """Answers, kept as long as the devices are the same objects."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], tuple[Offer, bool]] = {}
        self._views: dict[int, tuple[Offer, dict[str, Any]]] = {}

    def clear(self) -> None:
        """Forget everything: the inventory is another."""
        self._answers.clear()
        self._views.clear()

    def take(self, selectors: Iterable[DeviceSelector], offer: Offer) -> bool:
        """Whether all of them do. Raises SelectorError."""
        return all(self._takes(each.cel.expression, offer) for each in selectors if each.cel is not None)

    def _takes(self, expression: str, offer: Offer) -> bool:
        key = (expression, id(offer))
        known = self._answers.get(key)
        if known is None:
            try:
                answer = _compiled(expression).evaluate({"device": self._view(offer)}, COST_LIMIT)
            except EvalError as error:
                raise SelectorError(f"device {'/'.join(offer.id)}: CEL expression {expression!r}: {error}") from error
            known = self._answers[key] = (offer, answer is True)
        return known[1]

    def _view(self, offer: Offer) -> dict[str, Any]:
        """The device as expressions see it: attributes and capacities by domain."""
        known = self._views.get(id(offer))
        if known is None:
            known = self._views[id(offer)] = (offer, device_view(offer))
        return known[1]


@lru_cache(maxsize=1024)
def _compiled(expression: str) -> Program:
    return compile_expression(expression, {"device": DEVICE})


class _Domains(dict[str, Any]):
    """A domain nobody has is one without anything in it."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> dict[str, Any]:
        return {}


def device_view(offer: Offer) -> dict[str, Any]:
    """What `device` is in an expression."""
    attributes: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, attribute in offer.device.attributes.items():
        domain, identifier = split(name, offer.id.driver)
        value = value_of(attribute)
        attributes[domain][identifier] = semver(str(value)) if attribute.version is not None else value
    capacity: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, amount in offer.capacity.items():
        domain, _, identifier = name.rpartition("/")
        capacity[domain][identifier] = amount
    return {
        "driver": offer.id.driver,
        "attributes": _Domains(attributes),
        "capacity": _Domains(capacity),
        "allowMultipleAllocations": offer.is_shared,
    }


def split(name: str, driver: str) -> tuple[str, str]:
    """Domain and identifier of a name; without a domain it is the driver's."""
    domain, mark, identifier = name.rpartition("/")
    return (domain, identifier) if mark else (driver, name)
