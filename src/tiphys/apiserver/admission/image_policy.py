"""ImagePolicyWebhook: a service outside is asked about the images of pods, and its verdict remembered for a while.

    imagePolicy: {kubeConfigFile: /path, allowTTL: 50, denyTTL: 50, retryBackoff: 500, defaultAllow: false}

The times to live are in seconds, `retryBackoff` is in milliseconds; 0 stands for their defaults. `defaultAllow` says
what becomes of pods while the service does not answer.
https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#imagepolicywebhook
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from tiphys.apiserver.admission.base import WRITE, AdmissionParts, AdmissionPlugin, Object, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.authn.webhook import post_again
from tiphys.apiserver.configfile import ConfigError
from tiphys.apiserver.http.remote import RemoteError, RemoteService
from tiphys.base.log import get_logger
from tiphys.machinery.codec import decode_json

log = get_logger(__name__)

VERSION: Final = "imagepolicy.k8s.io/v1alpha1"
# Annotations of the pod whose prefix ends so are shown to the service.
SHOWN: Final = ".image-policy.k8s.io/"
AUDIT: Final = "imagepolicywebhook.image-policy.k8s.io/"
FAILED_OPEN: Final = "failed-open"
REMEMBERED: Final = 1024
TIMEOUT: Final = 30.0  # seconds, for all attempts together
# Milliseconds: what is taken for 0, and the bounds.
TTL: Final = (5 * 60_000, 1_000, 30 * 60_000)
BACKOFF: Final = (500, 1, 5 * 60_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePolicy:
    """The plug-in's configuration. Times in seconds."""

    kubeconfig: Path
    allow_ttl: float
    deny_ttl: float
    retry_backoff: float
    default_allow: bool


def read_policy(document: Mapping[str, Any]) -> ImagePolicy:
    """The configuration of the plug-in's document. Raises ConfigError, worded as upstream's."""
    found = document.get("imagePolicy") or {}
    if not found.get("kubeConfigFile"):
        problem = "no configuration has been provided, try setting KUBERNETES_MASTER environment variable"
        raise _refused(f"invalid configuration: {problem}")
    return ImagePolicy(
        retry_backoff=_milliseconds(int(found.get("retryBackoff") or 0), BACKOFF, "1ns", "5m0s"),
        allow_ttl=_milliseconds(1000 * int(found.get("allowTTL") or 0), TTL, "1s", "30m0s"),
        deny_ttl=_milliseconds(1000 * int(found.get("denyTTL") or 0), TTL, "1s", "30m0s"),
        kubeconfig=Path(found["kubeConfigFile"]),
        default_allow=bool(found.get("defaultAllow")),
    )


def _milliseconds(given: int, bounds: tuple[int, int, int], low: str, high: str) -> float:
    default, least, most = bounds
    wanted = given or default
    if not least <= wanted <= most:
        shown = f"{wanted}ms" if wanted % 1000 else f"{wanted // 1000}s"
        raise _refused(f"valid value is between {low} and {high}, got {shown}")
    return wanted / 1000


def _refused(problem: str) -> ConfigError:
    return ConfigError(f'failed to apply admission: couldn\'t init admission plugin "ImagePolicyWebhook": {problem}')


class ImagePolicyWebhook(AdmissionPlugin):
    """Asks about every image of a pod that is made or changed, and of containers put in to debug."""

    name = "ImagePolicyWebhook"
    operations = WRITE
    resources = frozenset({("", "pods"), ("", "pods/ephemeralcontainers")})

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        document = parts.configuration.get(self.name)
        if document is None:
            raise _refused("no config specified")
        self._policy = read_policy(document)
        try:
            self._service = RemoteService.from_kubeconfig(self._policy.kubeconfig)
        except ConfigError as error:
            raise _refused(str(error)) from None
        parts.closing.append(self._service.close)
        self._clock = parts.clock
        # Verdicts by the question, with the time until which they hold.
        self._verdicts: dict[bytes, tuple[float, Object]] = {}

    async def validate(self, attributes: AdmissionAttributes) -> None:
        spec = review_spec(attributes)
        if not spec["containers"]:
            return
        try:
            status = await self._judge(spec)
        except (OSError, ValueError) as error:
            log.warning("Failed to ask about images: %s", error)
            if not self._policy.default_allow:
                raise refuse(attributes, _told(error)) from None
            attributes.annotations[AUDIT + FAILED_OPEN] = "true"
            return
        for key, value in (status.get("auditAnnotations") or {}).items():
            attributes.annotations[AUDIT + str(key)] = str(value)
        if not status.get("allowed"):
            reason = status.get("reason") or ""
            told = "one or more images rejected by webhook backend"
            if reason:
                told = f"image policy webhook backend denied one or more images: {reason}"
            raise refuse(attributes, told)

    async def _judge(self, spec: Object) -> Object:
        """The status of the service's answer. Raises OSError (RemoteError, TimeoutError) and ValueError."""
        key = orjson.dumps(spec, option=orjson.OPT_SORT_KEYS)
        known = self._verdicts.get(key)
        if known is not None and self._clock.monotonic() < known[0]:
            return known[1]
        review = {
            "kind": "ImageReview",
            "apiVersion": VERSION,
            "metadata": {},
            "spec": spec,
            "status": {"allowed": False},
        }
        async with asyncio.timeout(TIMEOUT):
            answer = await post_again(self._service, orjson.dumps(review), self._clock, self._policy.retry_backoff)
        status = read_answer(answer)
        ttl = self._policy.allow_ttl if status.get("allowed") else self._policy.deny_ttl
        if len(self._verdicts) >= REMEMBERED:
            self._verdicts.clear()
        self._verdicts[key] = (self._clock.monotonic() + ttl, status)
        return status


def read_answer(body: bytes) -> Object:
    """The status of an ImageReview. Raises ValueError for anything else."""
    try:
        found = decode_json(body)
    except ValueError as error:
        raise ValueError(f"couldn't get version/kind; json parse error: {error}") from None
    kind = found.get("kind") or "ImageReview" if isinstance(found, dict) else "something else"
    if kind != "ImageReview":
        raise ValueError(f"the webhook answered with {kind} instead of an ImageReview")
    status = found.get("status") or {}
    if not isinstance(status, dict):
        raise ValueError("the webhook answered with a status that is no object")
    return status


def review_spec(attributes: AdmissionAttributes) -> Object:
    """The question: the images of a pod, the annotations meant for the service, the namespace."""
    pod = attributes.object or {}
    spec = pod.get("spec") or {}
    lists = ("ephemeralContainers",) if attributes.subresource else ("containers", "initContainers")
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    shown = {key: value for key, value in annotations.items() if SHOWN in key}
    asked: Object = {"containers": [{"image": one.get("image", "")} for kind in lists for one in spec.get(kind) or ()]}
    if shown:
        asked["annotations"] = shown
    return asked | {"namespace": attributes.namespace}


def _told(error: Exception) -> str:
    """What the user is told, in a client's words."""
    status = error.status if isinstance(error, RemoteError) else 0
    if status == 404:
        return "the server could not find the requested resource"
    if status >= 500:
        return 'an error on the server ("unknown") has prevented the request from succeeding'
    return str(error)
