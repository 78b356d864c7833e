"""The table of controllers and the flag that chooses from it."""

from __future__ import annotations

import pytest

from tiphys.controllers.manager import ALIASES, CONTROLLERS, OFF_BY_DEFAULT, selected

DEFAULT = [name for name in CONTROLLERS if name not in OFF_BY_DEFAULT]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        pytest.param(["*"], DEFAULT, id="all"),
        pytest.param(
            ["*", "-job-controller"], [name for name in DEFAULT if name != "job-controller"], id="all but one"
        ),
        pytest.param(
            ["*", "bootstrapsigner"], [*DEFAULT, "bootstrap-signer-controller"], id="one more, by its old name"
        ),
        pytest.param(
            ["deployment", "replicaset-controller"], ["deployment-controller", "replicaset-controller"], id="two"
        ),
        pytest.param(["-job-controller"], [], id="none"),
    ],
)
def test_controllers_are_chosen_by_name(given: list[str], names: list[str]) -> None:
    assert sorted(selected(given)) == sorted(names)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match='"nonsense" is not in the list of known controllers'):
        selected(["*", "nonsense"])


def test_old_names_mean_controllers_there_are() -> None:
    missing: set[str] = set()
    assert {name for name in ALIASES.values() if name not in CONTROLLERS} <= missing
