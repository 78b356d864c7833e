"""ServiceAccounts. https://kubernetes.io/docs/concepts/security/service-accounts/"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age


class ServiceAccountStrategy(TableStrategy):
    """Nothing but names; deleting answers with the account."""

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        super().prepare_for_create(ctx, obj)
        _keep_names(obj)

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_update(ctx, new, old)
        _keep_names(new)

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), age(obj, now)]


def _keep_names(account: Object) -> None:
    """Secrets are of the account's namespace: only their names are kept."""
    if account.get("secrets"):
        account["secrets"] = [{"name": one["name"]} if one.get("name") else {} for one in account["secrets"]]
