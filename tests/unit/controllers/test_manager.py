"""The table of controllers and the flag that chooses from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tiphys.controllers import manager
from tiphys.controllers.accounts import ACCOUNTS, AS_ITSELF
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


def test_the_page_about_controllers_names_each_with_its_file_and_account() -> None:
    page = (Path(__file__).parents[3] / "docs" / "controllers.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)`(?: \([^|]*\))? \| `([^`]+)` \| ([^|]+) \|", page, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(CONTROLLERS)
    root = Path(manager.__file__).parent
    for name, file, account in rows:
        assert (root / file).is_file(), file
        if name not in AS_ITSELF:
            assert account.strip(" `") == ACCOUNTS.get(name, "same"), name


def test_slices_hear_of_a_change_before_endpoints() -> None:
    """Handlers are called in the order in which the controllers are made, and that is the table's."""
    names = list(CONTROLLERS)
    assert names.index("endpointslice-controller") < names.index("endpoints-controller")
