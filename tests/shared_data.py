"""Where the recorded facts are: beside the repository, or where TIPHYS_SHARED says; without them tests skip."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared"
SHARED = Path(os.environ.get("TIPHYS_SHARED", _BESIDE))
DATA = SHARED / "data"

needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason="the recorded answers are not beside the repository")
