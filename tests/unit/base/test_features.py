"""Feature gates and what is said of wrong ones."""

import pytest

from tiphys.base.features import FeatureGates


def test_defaults_and_changes() -> None:
    gates = FeatureGates.parse("WatchList=false, MaxUnavailableStatefulSet=true")
    assert not gates.enabled("WatchList")
    assert gates.enabled("MaxUnavailableStatefulSet")
    assert gates.enabled("SidecarContainers")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("WatchList", "missing bool value for feature gate WatchList"),
        ("Nope=true", "unrecognized feature gate: Nope"),
        ("WatchList=maybe", "invalid value of WatchList: maybe, err: must be true or false"),
    ],
)
def test_wrong_gates(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureGates.parse(text)
