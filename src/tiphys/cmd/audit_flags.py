"""The API server's --audit-* flags."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tiphys.apiserver.audit.options import LOG_BATCH, AuditOptions, BatchOptions, TruncateOptions
from tiphys.cmd.flags import FlagParser, duration

TRUNCATE: Final = TruncateOptions()


def add_audit_flags(flags: FlagParser) -> None:
    """Add them all."""
    flags.add_argument("--audit-policy-file", type=Path, help="which requests are recorded, and how much of them")
    flags.add_argument("--audit-log-path", default="", help='file that events are written to; "-" is standard output')
    flags.add_argument("--audit-log-maxage", type=int, default=0, help="days that rotated files are kept")
    flags.add_argument("--audit-log-maxbackup", type=int, default=0, help="rotated files that are kept; 0: all")
    flags.add_argument("--audit-log-maxsize", type=int, default=0, help="megabytes before the file is rotated")
    flags.boolean("audit-log-compress", False, "compress rotated files")
    flags.add_argument("--audit-log-format", default="json", help="json or legacy")
    flags.add_argument("--audit-log-version", default="audit.k8s.io/v1", help="API version of events")
    flags.add_argument("--audit-webhook-config-file", type=Path, help="kubeconfig of a service events are sent to")
    flags.add_argument("--audit-webhook-version", default="audit.k8s.io/v1", help="API version of events")
    backoff = timedelta(seconds=10)
    help_text = "wait before what failed is sent again"
    flags.add_argument("--audit-webhook-initial-backoff", type=duration, default=backoff, help=help_text)
    _add_backend_flags(flags, "log", "blocking", LOG_BATCH)
    _add_backend_flags(flags, "webhook", "batch", BatchOptions())


def _add_backend_flags(flags: FlagParser, name: str, mode: str, batch: BatchOptions) -> None:
    prefix = f"audit-{name}"
    flags.add_argument(f"--{prefix}-mode", default=mode, help="batch, blocking or blocking-strict")
    help_text = "events kept before they are sent"
    flags.add_argument(f"--{prefix}-batch-buffer-size", type=int, default=batch.buffer_size, help=help_text)
    flags.add_argument(f"--{prefix}-batch-max-size", type=int, default=batch.max_size, help="events of a batch")
    wait = timedelta(seconds=batch.max_wait)
    flags.add_argument(f"--{prefix}-batch-max-wait", type=duration, default=wait, help="oldest event of a batch")
    flags.boolean(f"{prefix}-batch-throttle-enable", batch.throttle, "limit the rate of batches")
    flags.add_argument(f"--{prefix}-batch-throttle-qps", type=float, default=batch.qps, help="batches a second")
    flags.add_argument(f"--{prefix}-batch-throttle-burst", type=int, default=batch.burst, help="batches at once")
    flags.boolean(f"{prefix}-truncate-enabled", False, "cut events that are too large")
    help_text = "bytes of a batch at most"
    flags.add_argument(f"--{prefix}-truncate-max-batch-size", type=int, default=TRUNCATE.max_batch, help=help_text)
    help_text = "bytes of an event at most"
    flags.add_argument(f"--{prefix}-truncate-max-event-size", type=int, default=TRUNCATE.max_event, help=help_text)


def audit_options(found: Any) -> AuditOptions:
    """The flags as values. Raises ValueError for an API version of events that is not written."""
    for name in ("log", "webhook"):
        version = getattr(found, f"audit_{name}_version")
        if version != "audit.k8s.io/v1":
            raise ValueError(f"invalid audit {name} version {version}, allowed versions are [audit.k8s.io/v1]")
    return AuditOptions(
        policy=found.audit_policy_file,
        log_path=found.audit_log_path,
        log_mode=found.audit_log_mode,
        log_format=found.audit_log_format,
        log_max_age=found.audit_log_maxage,
        log_max_backups=found.audit_log_maxbackup,
        log_max_size=found.audit_log_maxsize,
        log_compress=found.audit_log_compress,
        log_batch=_batch(found, "log"),
        log_truncate=_truncate(found, "log"),
        webhook=found.audit_webhook_config_file,
        webhook_mode=found.audit_webhook_mode,
        webhook_initial_backoff=found.audit_webhook_initial_backoff.total_seconds(),
        webhook_batch=_batch(found, "webhook"),
        webhook_truncate=_truncate(found, "webhook"),
    )


def _batch(found: Any, name: str) -> BatchOptions:
    def flag(part: str) -> Any:
        return getattr(found, f"audit_{name}_batch_{part}")

    return BatchOptions(
        buffer_size=flag("buffer_size"),
        max_size=flag("max_size"),
        max_wait=flag("max_wait").total_seconds(),
        throttle=flag("throttle_enable"),
        qps=flag("throttle_qps"),
        burst=flag("throttle_burst"),
    )


def _truncate(found: Any, name: str) -> TruncateOptions:
    def flag(part: str) -> Any:
        return getattr(found, f"audit_{name}_truncate_{part}")

    return TruncateOptions(enabled=flag("enabled"), max_batch=flag("max_batch_size"), max_event=flag("max_event_size"))
