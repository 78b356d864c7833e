"""Fixtures: a runtime of its own for each test, and the proof that it left nothing behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.runtime.harness import Client, clear_away, new_base, options_in, serving


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in ("runc", "conmon", "busybox") if shutil.which(name) is None]
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)
            if os.geteuid() != 0 or missing:
                item.add_marker(pytest.mark.skip(reason=f"needs root and {', '.join(missing) or 'root'}"))


@pytest.fixture
async def base() -> AsyncIterator[Path]:
    directory = new_base()
    yield directory
    assert await clear_away(directory) == []


@pytest.fixture
async def cri_client(base: Path) -> AsyncIterator[Client]:
    async with serving(options_in(base)) as client:
        yield client
