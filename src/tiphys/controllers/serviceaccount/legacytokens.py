"""Retires service-account tokens kept in secrets that nobody has used for long.

    last used, or tracked, over a year ago ─→ label invalid-since ─→ a year later: deleted

Only those made automatically before v1.24, which their accounts list and no pod mounts; used again,
the label goes. https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from tiphys.api.core.v1 import ConfigMap, Pod, Secret, ServiceAccount
from tiphys.base.tasks import Supervised
from tiphys.client import DONE, Controller, PatchType, Preconditions, Result, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.serviceaccount.tokens import ACCOUNT_NAME, ACCOUNT_UID, TYPE
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

LAST_USED: Final = "kubernetes.io/legacy-token-last-used"
INVALID_SINCE: Final = "kubernetes.io/legacy-token-invalid-since"
TRACKING: Final = ObjectName("kube-system", "kube-apiserver-legacy-service-account-token-tracking")
INTERVAL: Final = timedelta(hours=24)


def day(text: str) -> datetime | None:
    """A date as labels have it; None for what is no date."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None


class LegacyTokenCleaner(Controller[ObjectName]):
    """The controller `legacy-serviceaccount-token-cleaner-controller`; its keys are secrets."""

    name = "legacy_service_account_token_cleaner"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._period = context.options.legacy_service_account_token_clean_up_period
        self._accounts = context.informers.of(ServiceAccount)
        self._secrets = context.informers.of(Secret, field_selector=f"type={TYPE}")
        self._pods = context.informers.of(Pod)
        self._tracked_since: datetime | None = None
        super().__init__(context.clock, (self._accounts, self._secrets, self._pods))

    def start(self, tasks: Supervised) -> None:
        """Look through all of them once a day."""
        tasks.spawn(self._look_daily, name=f"{self.name} rounds", restart=True)

    async def _look_daily(self) -> None:
        while True:
            with suppress(NotFoundError):
                found = await self._client.get(ConfigMap, TRACKING)
                self._tracked_since = day(found.data.get("since", ""))
            for secret in self._secrets.lister.list():
                self.queue.add(key_of(secret))
            await self.clock.sleep(INTERVAL.total_seconds())

    async def sync(self, key: ObjectName) -> Result:
        """Mark, unmark or delete one token."""
        secret = self._secrets.lister.get(key)
        if secret is None or self._tracked_since is None or not self._was_made_automatically(secret):
            return DONE
        now = self.clock.now()
        used = day(secret.metadata.labels.get(LAST_USED, "")) or self._tracked_since
        created = secret.metadata.creation_timestamp
        if max(used, self._tracked_since, created or used) + self._period > now or self._is_mounted(secret):
            if INVALID_SINCE in secret.metadata.labels:
                await self._label(secret, None)
            return DONE
        invalid = day(secret.metadata.labels.get(INVALID_SINCE, ""))
        if invalid is None:
            await self._label(secret, now.strftime("%Y-%m-%d"))
        elif invalid + self._period <= now:
            only_if = Preconditions(uid=secret.metadata.uid, resource_version=secret.metadata.resource_version)
            with suppress(NotFoundError):
                await self._client.delete(Secret, key, only_if=only_if)
        return DONE

    def _was_made_automatically(self, secret: Secret) -> bool:
        """Whether the secret's account lists it, as it does those that were made for it."""
        name = secret.metadata.annotations.get(ACCOUNT_NAME, "")
        account = self._accounts.lister.get(ObjectName(secret.metadata.namespace, name))
        if account is None or account.metadata.uid != secret.metadata.annotations.get(ACCOUNT_UID):
            return False
        return any(reference.name == secret.metadata.name for reference in account.secrets)

    def _is_mounted(self, secret: Secret) -> bool:
        return any(
            volume.secret is not None and volume.secret.secret_name == secret.metadata.name
            for pod in self._pods.lister.list(secret.metadata.namespace)
            for volume in pod.spec.volumes
        )

    async def _label(self, secret: Secret, value: str | None) -> None:
        patch = {"metadata": {"labels": {INVALID_SINCE: value}, "resourceVersion": secret.metadata.resource_version}}
        with suppress(NotFoundError):
            await self._client.patch(Secret, key_of(secret), patch, patch_type=PatchType.MERGE)
