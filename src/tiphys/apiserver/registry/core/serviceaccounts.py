"""ServiceAccounts. https://kubernetes.io/docs/concepts/security/service-accounts/"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tiphys.apiserver.registry.kinds import TableStrategy, name_of
from tiphys.apiserver.registry.strategy import Cell, Object, age


class ServiceAccountStrategy(TableStrategy):
    """Nothing but names; deleting answers with the account."""

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), age(obj, now)]
