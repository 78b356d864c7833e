"""Tiphys: Kubernetes, written in Python.

The rooms and who may import whom are described in docs/architecture.md.
"""

from typing import Final

__version__: Final = "0.1.0"
KUBERNETES_VERSION: Final = "v1.36.2"
