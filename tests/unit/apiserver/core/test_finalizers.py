from __future__ import annotations

import pytest

from tiphys.apiserver.registry.finalizers import finalizers_for_deletion
from tiphys.apiserver.registry.options import DeleteOptions
from tiphys.apiserver.registry.strategy import GarbageCollection
from tiphys.machinery.errors import StatusError

BACKGROUND, ORPHAN = GarbageCollection.BACKGROUND, GarbageCollection.ORPHAN

# DeleteOptions, finalizers before, the resource's default → finalizers after (None: as they are)
TABLE = {
    "nothing asked": ({}, ["a.b/c"], BACKGROUND, None),
    "foreground": ({"propagationPolicy": "Foreground"}, ["a.b/c"], BACKGROUND, ["a.b/c", "foregroundDeletion"]),
    "orphan": ({"propagationPolicy": "Orphan"}, [], BACKGROUND, ["orphan"]),
    "background takes both away": ({"propagationPolicy": "Background"}, ["orphan"], BACKGROUND, []),
    "foreground instead of orphan": (
        {"propagationPolicy": "Foreground"},
        ["orphan"],
        BACKGROUND,
        ["foregroundDeletion"],
    ),
    "orphanDependents": ({"orphanDependents": True}, [], BACKGROUND, ["orphan"]),
    "orphanDependents not": ({"orphanDependents": False}, ["foregroundDeletion"], ORPHAN, []),
    "orphan by default": ({}, [], ORPHAN, ["orphan"]),
    "a finalizer overrides the default": ({}, ["foregroundDeletion"], ORPHAN, None),
    "no garbage collection": ({"propagationPolicy": "Orphan"}, [], GarbageCollection.UNSUPPORTED, None),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_finalizers_of_a_deletion(
    case: tuple[dict[str, object], list[str], GarbageCollection, list[str] | None],
) -> None:
    raw, before, default, after = case
    assert finalizers_for_deletion(DeleteOptions.parse(raw), before, default) == after


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"propagationPolicy": "Sometimes"}, 'Unsupported value: "Sometimes"'),
        ({"propagationPolicy": "Orphan", "orphanDependents": True}, "cannot be both set"),
        ({"dryRun": ["Nope"]}, 'supported values: "All"'),
    ],
)
def test_delete_options_that_make_no_sense(raw: dict[str, object], message: str) -> None:
    with pytest.raises(StatusError, match=message) as caught:
        DeleteOptions.parse(raw)
    assert caught.value.code == 422


def test_a_negative_grace_period_is_the_shortest() -> None:
    assert DeleteOptions.parse({"gracePeriodSeconds": -5}).grace_period_seconds == 1
