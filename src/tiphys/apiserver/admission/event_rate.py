"""EventRateLimit: events that come faster than the configuration allows get 429.

    limits: [{type: Server | Namespace | User | SourceAndObject, qps: 50, burst: 100, cacheSize: 4096}]

https://kubernetes.io/docs/reference/config-api/apiserver-eventratelimit.v1alpha1/
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tiphys.apiserver.admission.base import WRITE, AdmissionParts, AdmissionPlugin
from tiphys.apiserver.admission.configuration import check_document
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.configfile import ConfigError
from tiphys.machinery.errors import too_many_requests

KIND: Final = "Configuration"
VERSIONS: Final = ("eventratelimit.admission.k8s.io/v1alpha1",)
TYPES: Final = ("Server", "Namespace", "User", "SourceAndObject")
DEFAULT_KEYS: Final = 4096


@dataclass(slots=True)
class Bucket:
    """Tokens, refilled at `rate` a second up to `burst`."""

    tokens: float
    at: float


class Limit:
    """One limit, with a bucket for each key it has met lately."""

    def __init__(self, spec: Mapping[str, Any], now: Callable[[], float]) -> None:
        self.type = str(spec.get("type") or "")
        self._rate, self._burst = float(spec.get("qps") or 0), float(spec.get("burst") or 0)
        self._keys = int(spec.get("cacheSize") or DEFAULT_KEYS) if self.type != "Server" else 1
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._now = now

    def takes(self, key: str) -> bool:
        """Whether one more event fits."""
        now = self._now()
        bucket = self._buckets.pop(key, None) or Bucket(self._burst, now)
        self._buckets[key] = bucket
        while len(self._buckets) > self._keys:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


class EventRateLimit(AdmissionPlugin):
    """Counts events by its limits; a deed of a dry run counts for nothing."""

    name = "EventRateLimit"
    operations = WRITE
    resources = frozenset({("", "events"), ("events.k8s.io", "events")})

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        document = parts.configuration.get(self.name)
        if document is None:
            raise ConfigError(_NO_LIMITS)
        check_document(self.name, document, KIND, VERSIONS)
        specs = document.get("limits") or ()
        if not specs:
            raise ConfigError(_NO_LIMITS)
        self._limits = [Limit(spec, parts.monotonic) for spec in specs]
        for index, one in enumerate(self._limits):
            if one.type not in TYPES:
                shown = ", ".join(f'"{name}"' for name in sorted(TYPES))
                raise ConfigError(f'limits[{index}].type: Unsupported value: "{one.type}": supported values: {shown}')

    async def validate(self, attributes: AdmissionAttributes) -> None:
        if attributes.dry_run:
            return
        problems = []
        for limit in self._limits:
            key = _key(limit.type, attributes)
            if not limit.takes(key):
                problems.append(f"limit reached on type {limit.type} for key {key}")
        if problems:
            told = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
            raise too_many_requests(f"Too many requests: {told}")


_NO_LIMITS: Final = (
    'failed to apply admission: couldn\'t init admission plugin "EventRateLimit": limits: Invalid value: null: '
    "must not be empty"
)


def _key(kind: str, attributes: AdmissionAttributes) -> str:
    event = attributes.object or {}
    if kind == "Namespace":
        return attributes.namespace
    if kind == "User":
        return attributes.user.name
    if kind == "SourceAndObject":
        source = event.get("source") or event.get("deprecatedSource") or {}
        target = event.get("involvedObject") or event.get("regarding") or {}
        names = ("kind", "namespace", "name", "uid", "apiVersion")
        parts = [source.get("component"), source.get("host"), *(target.get(name) for name in names)]
        return "".join(str(part or "") for part in parts)
    return ""
