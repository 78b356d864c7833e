"""The three metrics APIs, which add-ons serve: resource, custom and external metrics.

All values are in thousandths of the metric's unit, as integers.
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#support-for-metrics-apis
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from tiphys.api.autoscaling.v2 import CrossVersionObjectReference
from tiphys.client import ApiConnectionError, Client
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.quantity import parse_cached
from tiphys.machinery.time import parse_duration, parse_rfc3339

RESOURCE: Final = "/apis/metrics.k8s.io/v1beta1"
CUSTOM: Final = ("/apis/custom.metrics.k8s.io/v1beta2", "/apis/custom.metrics.k8s.io/v1beta1")
EXTERNAL: Final = "/apis/external.metrics.k8s.io/v1beta1"


class MetricsError(Exception):
    """A metric that cannot be had now; the text says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one pod measured over `window` until `at`."""

    value: int  # thousandths
    at: datetime | None = None
    window: timedelta = timedelta(minutes=1)


def milli(text: str) -> int:
    """Thousandths of a quantity, rounded up."""
    return parse_cached(text).milli_value()


class MetricsClient:
    """Reads metrics. Every method raises MetricsError."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def resource(self, name: str, namespace: str, selector: str, container: str = "") -> dict[str, Sample]:
        """CPU or memory of each pod that `selector` matches: of the whole pod, or of one container."""
        path = f"{RESOURCE}/namespaces/{namespace}/pods"
        answer = await self._ask(path, {"labelSelector": selector}, "resource metrics API")
        items = answer.get("items") or []
        if not items:
            raise MetricsError("no metrics returned from resource metrics API")
        found = {}
        for item in items:
            value = _usage(item, name, container)
            if value is not None:
                found[item["metadata"]["name"]] = Sample(value, *_when(item, item.get("window")))
        return found

    async def pods(self, metric: str, namespace: str, selector: str, metric_selector: str) -> dict[str, Sample]:
        """A custom metric of each pod."""
        query = {"labelSelector": selector, "metricLabelSelector": metric_selector}
        items = await self._custom(f"namespaces/{namespace}/pods/{quote('*')}/{quote(metric)}", query)
        if not items:
            raise MetricsError("no metrics returned from custom metrics API")
        return {
            item["describedObject"]["name"]: Sample(milli(item["value"]), *_when(item, item.get("windowSeconds")))
            for item in items
        }

    async def object(
        self, metric: str, namespace: str, target: CrossVersionObjectReference, plural: str, metric_selector: str
    ) -> int:
        """A custom metric of one object; `plural` is its resource, with the group where it has one."""
        if target.kind == "Namespace" and "/" not in target.api_version:
            path = f"namespaces/{quote(target.name)}/metrics/{quote(metric)}"
        else:
            path = f"namespaces/{namespace}/{plural}/{quote(target.name)}/{quote(metric)}"
        items = await self._custom(path, {"metricLabelSelector": metric_selector})
        if not items:
            raise MetricsError("no metrics returned from custom metrics API")
        return milli(items[0]["value"])

    async def external(self, metric: str, namespace: str, selector: str) -> int:
        """The sum of an external metric's series."""
        path = f"{EXTERNAL}/namespaces/{namespace}/{quote(metric)}"
        answer = await self._ask(path, {"labelSelector": selector}, "external metrics API")
        items = answer.get("items") or []
        if not items:
            raise MetricsError("no metrics returned from external metrics API")
        return sum(milli(item["value"]) for item in items)

    async def _custom(self, path: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        for number, root in enumerate(CUSTOM):
            try:
                answer = await self._send(f"{root}/{path}", query)
            except NotFoundError as error:
                # Either the older version is served, or there is no such metric at all.
                if number + 1 < len(CUSTOM):
                    continue
                raise MetricsError(f"unable to fetch metrics from custom metrics API: {_why(error, path)}") from error
            except (StatusError, ApiConnectionError) as error:
                raise MetricsError(f"unable to fetch metrics from custom metrics API: {_why(error, path)}") from error
            return list(answer.get("items") or [])
        return []

    async def _ask(self, path: str, query: Mapping[str, str], api: str) -> dict[str, Any]:
        try:
            return await self._send(path, query)
        except (StatusError, ApiConnectionError) as error:
            raise MetricsError(f"unable to fetch metrics from {api}: {_why(error, path)}") from error

    async def _send(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        return await self._client.request_json("GET", path, query={key: value for key, value in query.items() if value})


def _why(error: StatusError | ApiConnectionError, path: str) -> str:
    """The error in words; where no server of the API answers there are none but the generic ones."""
    if not isinstance(error, StatusError):
        return str(error)
    words = _UNSERVED.get(error.code)
    if words is None or error.status.get("details"):
        return error.message
    group = path.split("/")[2] if path.startswith("/apis/") else "custom.metrics.k8s.io"
    return f"{words} (get {path.rsplit('/', 1)[1]}.{group})"


# What clients say of answers that are no Status: nobody is registered, or who is does not answer.
_UNSERVED: Final = {
    404: "the server could not find the requested resource",
    503: "the server is currently unable to handle the request",
}


def _usage(item: Mapping[str, Any], resource: str, container: str) -> int | None:
    """The pod's or the container's usage; None while a part of it is not measured."""
    chosen = [one for one in item.get("containers") or [] if container in ("", one["name"])]
    values = [one.get("usage", {}).get(resource) for one in chosen]
    if not values or None in values:
        return None
    return sum(milli(value) for value in values)


def _when(item: Mapping[str, Any], window: str | int | None) -> tuple[datetime | None, timedelta]:
    parsers: dict[type, Callable[[Any], timedelta]] = {str: parse_duration, int: lambda value: timedelta(seconds=value)}
    parse = parsers.get(type(window))
    at = item.get("timestamp")
    return parse_rfc3339(at) if at else None, parse(window) if parse is not None else timedelta(minutes=1)
