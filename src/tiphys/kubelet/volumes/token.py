"""Service-account tokens for volumes: asked for, kept, and renewed in time.

https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#serviceaccount-token-volume-projection:
a token is renewed when 80 % of its life is over, or when it is a day old.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tiphys.api.authentication.v1 import BoundObjectReference, TokenRequest, TokenRequestSpec
from tiphys.api.core.v1 import Pod, ServiceAccount
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import Client
from tiphys.kubelet.pod import PodUID, uid_of
from tiphys.machinery.errors import StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

DEFAULT_SECONDS: Final = 3600
LONGEST: Final = timedelta(hours=24)
RETRY: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Token:
    """A token, the moment it ends, and the moment to renew it."""

    value: str
    expires: datetime
    renew_at: datetime


class TokenManager:
    """Tokens of the pods on this node, by pod, audience and lifetime."""

    def __init__(self, client: Client, clock: Clock, jitter: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._jitter = jitter  # 0…1: spreads renewals so that not all of a node come at once
        self._tokens: dict[tuple[PodUID, str, int], Token] = {}

    async def token(self, pod: Pod, audience: str, seconds: int) -> Token:
        """A valid token of the pod's service account. Raises StatusError when none can be had."""
        key = (uid_of(pod), audience, seconds)
        now = self._clock.now()
        known = self._tokens.get(key)
        if known is not None and now < known.renew_at:
            return known
        try:
            fresh = await self._request(pod, audience, seconds, now)
        except (StatusError, OSError) as error:
            if known is None or now >= known.expires:
                raise
            log.warning("renewing a token of pod %s failed, the old one is still good: %s", pod.metadata.name, error)
            fresh = Token(known.value, known.expires, now + RETRY)
        self._tokens[key] = fresh
        return fresh

    def forget(self, uid: PodUID) -> None:
        for key in [key for key in self._tokens if key[0] == uid]:
            del self._tokens[key]

    async def _request(self, pod: Pod, audience: str, seconds: int, now: datetime) -> Token:
        bound = BoundObjectReference(kind="Pod", api_version="v1", name=pod.metadata.name, uid=pod.metadata.uid)
        spec = TokenRequestSpec(
            audiences=(audience,) if audience else (), expiration_seconds=seconds, bound_object_ref=bound
        )
        account = ObjectName(pod.metadata.namespace, pod.spec.service_account_name or "default")
        answer = await self._client.create_subresource(ServiceAccount, account, "token", TokenRequest(spec=spec))
        expires = answer.status.expiration_timestamp or now + timedelta(seconds=seconds)
        life = expires - now
        spread = timedelta(seconds=self._jitter() * 10)
        return Token(answer.status.token, expires, now + min(life * 0.8, LONGEST) - spread)
