"""What audit can be told: upstream's --audit-* flags as values, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MODES: Final = ("batch", "blocking", "blocking-strict")
FORMATS: Final = ("legacy", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How events are collected before they are sent. Times in seconds."""

    buffer_size: int = 10_000  # events kept at most; more are dropped
    max_size: int = 400  # events of one batch
    max_wait: float = 30.0  # until a batch that is not full is sent
    throttle: bool = True
    qps: float = 10.0  # batches a second, on average
    burst: int = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncateOptions:
    """Events that are too large lose their objects, or are dropped. Sizes in bytes."""

    enabled: bool = False
    max_batch: int = 10 * 1024 * 1024
    max_event: int = 100 * 1024


LOG_BATCH: Final = BatchOptions(max_size=1, max_wait=0.0, throttle=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """Without a policy nothing is recorded; without a path or a webhook it goes nowhere."""

    policy: Path | None = None
    log_path: str = ""  # "-" is the standard output
    log_mode: str = "blocking"
    log_format: str = "json"
    log_max_age: int = 0  # days; 0: not by age
    log_max_backups: int = 0  # files; 0: all
    log_max_size: int = 0  # megabytes before the file is rotated; 0: 100
    log_compress: bool = False
    log_batch: BatchOptions = LOG_BATCH
    log_truncate: TruncateOptions = field(default_factory=TruncateOptions)
    webhook: Path | None = None  # a kubeconfig
    webhook_mode: str = "batch"
    webhook_initial_backoff: float = 10.0
    webhook_batch: BatchOptions = field(default_factory=BatchOptions)
    webhook_truncate: TruncateOptions = field(default_factory=TruncateOptions)

    def problems(self) -> Iterator[str]:
        """What is wrong, in upstream's words."""
        if self.log_path:
            yield from _mode_problems("log", self.log_mode, self.log_batch)
            if self.log_format not in FORMATS:
                allowed = ",".join(FORMATS)
                yield f'invalid audit log format {self.log_format}, allowed formats are "{allowed}"'
            for flag, value in (
                ("maxage", self.log_max_age),
                ("maxbackup", self.log_max_backups),
                ("maxsize", self.log_max_size),
            ):
                if value < 0:
                    yield f"--audit-log-{flag} {value} can't be a negative number"
        if self.webhook is not None:
            yield from _mode_problems("webhook", self.webhook_mode, self.webhook_batch)


def _mode_problems(name: str, mode: str, batch: BatchOptions) -> Iterator[str]:
    if mode not in MODES:
        yield f'invalid audit {name} mode {mode}, allowed modes are "{",".join(MODES)}"'
    if mode != "batch":
        return
    for what, value in (("buffer size", batch.buffer_size), ("max batch size", batch.max_size)):
        if value <= 0:
            yield f"invalid audit batch {name} {what} {value}, must be a positive number"
    if batch.throttle and batch.qps <= 0:
        yield f"invalid audit batch {name} throttle QPS {batch.qps:g}, must be a positive number"
    if batch.throttle and batch.burst <= 0:
        yield f"invalid audit batch {name} throttle burst {batch.burst}, must be a positive number"
