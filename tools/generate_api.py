#!/usr/bin/env python3
"""Generate `src/tiphys/api` from the definitions of Kubernetes v1.36 and the tables in `tools/data`.

tools/generate_api.py            write the files
tools/generate_api.py --check    write nothing; exit 1 and name the files that are not fresh
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from apigen.model import load_model
from apigen.schemas import render_protobuf, render_schemas
from apigen.table import render_table
from apigen.types import render_types

ROOT = Path(__file__).parent.parent / "src" / "tiphys" / "api"


def generate() -> dict[Path, str]:
    """Path → text of every generated file."""
    model, messages = load_model()
    texts = render_types(model)
    texts["data/types.json"] = render_schemas(model)
    texts["data/protobuf.json"] = render_protobuf(model, messages)
    texts["data/resources.json"] = render_table()
    return {ROOT / name: text for name, text in texts.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say which committed files are not fresh")
    options = parser.parse_args()
    stale = [path for path, text in generate().items() if not path.is_file() or path.read_text() != text]
    if options.check:
        for path in stale:
            print(f"not fresh: {path.relative_to(ROOT.parent.parent.parent)}", file=sys.stderr)
        return 1 if stale else 0
    for path, text in generate().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print(f"{len(stale)} files written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
