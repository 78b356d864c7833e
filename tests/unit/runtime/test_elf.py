"""Shared libraries of this very interpreter and of a package that brings its own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pytest

from tiphys.runtime.images import elf


@pytest.mark.parametrize("has_cache", [True, False])
def test_the_interpreter_finds_its_library_with_the_loaders_cache_and_without(
    has_cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_cache:
        monkeypatch.setattr(elf, "library_cache", dict)
    found = elf.libraries([Path(sys.executable).resolve()])
    assert "libc.so.6" in {path.name for path in found}
    assert all(path.exists() for path in found)


def test_what_a_package_brings_is_at_its_plain_path() -> None:
    modules = list(Path(numpy.__file__).resolve().parent.rglob("_multiarray_umath*.so"))
    found = elf.libraries(modules)
    assert modules
    assert any(path.parent.name == "numpy.libs" for path in found)
    assert not any(".." in path.parts for path in found)
