"""Replies are kept as long as the cluster is what it was, and no longer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.dns.test_server import SVC, endpoint, endpoint_slice, meta, service
from tiphys.api.core.v1 import Namespace
from tiphys.dns.kubernetes import kept as kept_module
from tiphys.dns.kubernetes.data import ClusterData
from tiphys.dns.kubernetes.kept import KeptReplies
from tiphys.dns.message import A, Query, Reply, address_record

PIECE = endpoint_slice("web", endpoint("10.244.0.1"))
NAMESPACE = Namespace(metadata=meta("default"))
Change = Callable[[ClusterData], None]
CHANGES: dict[str, Change] = {
    "a service": lambda data: data.put_service(service("web", "10.96.0.1")),
    "a service less": lambda data: data.drop_service(service("web", "10.96.0.1")),
    "a slice": lambda data: data.put_slice(PIECE),
    "another slice": lambda data: data.update_slice(PIECE, PIECE),
    "a slice less": lambda data: data.drop_slice(PIECE),
    "a namespace": lambda data: data.put_namespace(NAMESPACE),
    "a namespace less": lambda data: data.drop_namespace(NAMESPACE),
}


def asked(name: str = f"web.{SVC}", kind: int = A) -> Query:
    return Query(1, 0, name, kind, b"\0" * (len(name) + 5))


def reply(number: int = 1) -> Reply:
    return Reply(answers=[address_record(f"web.{SVC}", f"10.96.0.{each}", 30) for each in range(number)])


def test_kept_for_an_equal_question() -> None:
    kept = KeptReplies(ClusterData())
    assert kept.get(asked()) is None
    given = kept.put(asked(), reply())
    assert given.encoded is not None
    assert kept.get(asked()) is given
    assert kept.get(asked(kind=28)) is None
    assert kept.get(asked(f"other.{SVC}")) is None


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_forgotten_after(change: Change) -> None:
    data = ClusterData()
    kept = KeptReplies(data)
    kept.put(asked(), reply())
    change(data)
    assert kept.get(asked()) is None


def test_not_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "CAPACITY", 10)
    kept = KeptReplies(ClusterData())
    kept.put(asked(), reply(4))
    kept.put(asked(f"other.{SVC}"), reply(4))
    assert kept.get(asked()) is not None
    kept.put(asked(f"third.{SVC}"), reply(1))
    assert kept.get(asked()) is None
    assert kept.get(asked(f"third.{SVC}")) is not None
