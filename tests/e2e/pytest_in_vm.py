"""pytest as a program for `vm`: what became of each test, as one line of JSON behind RESULT.

TIPHYS_TEST_FILE is the file, TIPHYS_TEST_WHICH is pytest's -k.
"""

from __future__ import annotations

import json
import os
import sys

import pytest


class Outcomes:
    """Test → passed, failed or skipped, with the end of what a failure said."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            said = str(report.longrepr)[-1500:] if report.failed else ""
            self.of[report.nodeid.rpartition("/")[2]] = f"{report.outcome} {said}".strip()


def main() -> None:
    outcomes = Outcomes()
    options = ["-q", "--color=no", "-p", "no:cacheprovider", "--import-mode=importlib"]
    which, file = os.environ["TIPHYS_TEST_WHICH"], os.environ["TIPHYS_TEST_FILE"]
    pytest.main([*options, "-k", which, file], plugins=[outcomes])
    print("RESULT", json.dumps({"outcomes": outcomes.of}))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
