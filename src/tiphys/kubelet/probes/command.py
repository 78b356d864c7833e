"""exec: a command in the container that ends with 0 in time is success."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from tiphys.kubelet.cri.client import CRIClient, CRIError
from tiphys.kubelet.probes.outcome import Outcome, error, failure, success

MAX_OUTPUT: Final = 10 * 1024


async def probe_command(runtime: CRIClient, container_id: str, command: Sequence[str], timeout: int) -> Outcome:
    """Run the command once."""
    try:
        answer = await runtime.exec_sync(container_id, list(command), timeout)
    except CRIError as problem:
        if problem.code == "DeadlineExceeded":
            return failure(f"command timed out: {json.dumps(' '.join(command))} timed out after {timeout}s")
        return error(str(problem))
    output = (answer.stdout + answer.stderr)[:MAX_OUTPUT].decode(errors="replace")
    return success(output) if answer.exit_code == 0 else failure(output)
