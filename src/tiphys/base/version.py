"""Which Kubernetes this is, as /version says it and `kubernetes_build_info` repeats."""

from __future__ import annotations

import platform
from typing import Final

from tiphys import KUBERNETES_VERSION

GIT_COMMIT: Final = "1f3ad0bf1c0fdf3f4c4b6f26f7d1ce1df4a1d36f"

VERSION: Final[dict[str, str]] = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": KUBERNETES_VERSION,
    "gitCommit": GIT_COMMIT,
    "gitTreeState": "clean",
    "buildDate": "2026-06-09T00:00:00Z",
    "goVersion": f"python{platform.python_version()}",
    "compiler": platform.python_implementation().lower(),
    "platform": f"linux/{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine()) }",
}
