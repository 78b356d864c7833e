"""What users write on nodes and pods (or their templates) to say how they behave. Times as `500ms`, `30s`, `5m`."""

from __future__ import annotations

from typing import Final

PREFIX: Final = "simulation.tiphys.dev/"

# Nodes.
SIMULATED: Final = f"{PREFIX}simulated"  # label, "true": this node is ours; also the key of its taint
LOST: Final = f"{PREFIX}lost"  # "true": the machine is gone; no heartbeat, and its pods stay as they were

# Pods.
START_AFTER: Final = f"{PREFIX}start-after"  # from bound to running; 0
READY_AFTER: Final = f"{PREFIX}ready-after"  # from running to ready; 0
RUN_FOR: Final = f"{PREFIX}run-for"  # how long its containers run; a Job's 1 s, others for ever
EXIT_CODE: Final = f"{PREFIX}exit-code"  # what they end with; 0
STOP_AFTER: Final = f"{PREFIX}stop-after"  # from the request to stop to the end, at most the grace period; 0
