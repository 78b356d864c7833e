"""How long a pod's worker waits after failures."""

from __future__ import annotations

import pytest

from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.pods.worker import longest_retry
from tiphys.kubelet.volumes.manager import MountError


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (CRIError("Unavailable", "the runtime is away"), 10.0),
        (OSError("disk"), 10.0),
        (MountError({"v": "not attached yet"}), 122.0),
    ],
    ids=["runtime", "files", "mounts"],
)
def test_a_runtime_that_was_away_is_asked_again_soon(error: Exception, seconds: float) -> None:
    assert longest_retry(error) == seconds
