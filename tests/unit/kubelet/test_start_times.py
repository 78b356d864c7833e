"""Since when containers run, in the summary and in the metrics made of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod, RuntimeSandbox, State
from tiphys.kubelet.pod import PodUID
from tiphys.kubelet.server.metrics import resource_metrics
from tiphys.kubelet.server.stats import set_start_times

BEGAN = datetime(2026, 1, 1, 12, tzinfo=UTC)
USAGE: dict[str, Any] = {"cpu": {"usageCoreNanoSeconds": 2_000_000_000}, "memory": {"workingSetBytes": 4096}}


def test_start_times_are_those_of_the_runtime() -> None:
    later = BEGAN + timedelta(seconds=5)
    container = RuntimeContainer(id="1", name="main", state=State.RUNNING, created_at=BEGAN, started_at=later)
    sandbox = RuntimeSandbox(id="s", attempt=0, ready=True, created_at=BEGAN)
    pod = RuntimePod(uid=PodUID("u"), sandboxes=(sandbox,), containers=(container,))
    now = "2026-01-02T00:00:00Z"
    stats: dict[str, Any] = {
        "podRef": {"namespace": "d", "name": "web"},
        "startTime": now,
        "containers": [{"name": "main", "startTime": now, **USAGE}, {"name": "gone", "startTime": now, **USAGE}],
        **USAGE,
    }
    set_start_times(stats, pod)
    assert stats["startTime"] == "2026-01-01T12:00:00Z"
    assert [one["startTime"] for one in stats["containers"]] == ["2026-01-01T12:00:05Z", now]
    text = resource_metrics({"node": USAGE, "pods": [stats]}).decode()
    line = next(one for one in text.splitlines() if one.startswith("container_start_time_seconds{") and "main" in one)
    labels, value = line.rsplit(" ", 1)
    assert labels == 'container_start_time_seconds{container="main",namespace="d",pod="web"}'
    assert float(value) == later.timestamp()
