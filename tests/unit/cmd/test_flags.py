"""Command lines: what is accepted, and the one line that says what is wrong."""

import argparse
from datetime import timedelta

import pytest

from tiphys.cmd.errors import UsageError
from tiphys.cmd.flags import FlagParser, duration
from tiphys.cmd.main import main


def parser() -> FlagParser:
    flags = FlagParser("thing", "Does a thing.")
    flags.add_argument("--port", type=int, default=1)
    flags.boolean("wide", False, "more")
    flags.listing("modes", ["a"], "modes")
    return flags


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (1, False, ["a"])),
        (["--port=7", "--wide", "--modes=x,y"], (7, True, ["x", "y"])),
        (["--port", "7", "--wide=false"], (7, False, ["a"])),
    ],
    ids=["defaults", "with equals", "apart"],
)
def test_values(words: list[str], expected: tuple[int, bool, list[str]]) -> None:
    found = parser().parse(words)
    assert (found.port, found.wide, found.modes) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prot=7"], "unknown flag: --prot"),
        (["--por=7"], "unknown flag: --por"),
        (["extra"], "unknown argument: extra"),
        (["--port=seven"], "invalid int value"),
        (["--wide=perhaps"], 'invalid boolean value "perhaps"'),
    ],
)
def test_wrong_ones(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parser().parse(words)


@pytest.mark.parametrize(
    ("text", "seconds"), [("40s", 40), ("1m30s", 90), ("1.5h", 5400), ("250ms", 0.25), ("0", 0), ("-5s", -5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["5", "s", "1m 30s", "soon"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="invalid duration"):
        duration(text)


@pytest.mark.parametrize(
    ("words", "status", "output"),
    [
        (["--help"], 0, "Usage: tiphys COMMAND"),
        (["--version"], 0, "Kubernetes v1.36"),
        (["fly"], 2, 'unknown command "fly"'),
        (["up", "--colour=red"], 2, "unknown flag: --colour"),
        (["up", "--name=Not_A_Name"], 2, '"Not_A_Name" is not a cluster name'),
        (["kubeconfig", "--name=nowhere-at-all"], 1, 'there is no cluster "nowhere-at-all"'),
        (["node", "stop", "n", "--name=nowhere-at-all"], 1, "is not running"),
        (["down", "--name=nowhere-at-all"], 0, 'There is no cluster "nowhere-at-all".'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands(words: list[str], status: int, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == status
    captured = capsys.readouterr()
    assert output in captured.out + captured.err
    assert "Traceback" not in captured.err
