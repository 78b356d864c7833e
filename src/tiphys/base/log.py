"""Log lines in the form Kubernetes components write them (klog's header), on standard error.

`I1120 23:10:49.123456   4711 kubelet/pod_workers.py:42] message`: severity and date, time in
UTC, process id, file and line. https://kubernetes.io/docs/concepts/cluster-administration/system-logs/
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

_SEVERITY: Final = {
    logging.DEBUG: "I",
    logging.INFO: "I",
    logging.WARNING: "W",
    logging.ERROR: "E",
    logging.CRITICAL: "F",
}


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; pass `__name__`."""
    return logging.getLogger(name)


class KlogFormatter(logging.Formatter):
    """Formats a record with klog's header."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        severity = _SEVERITY.get(record.levelno, "I")
        place = "/".join(record.pathname.rsplit("/", 2)[-2:])
        header = f"{severity}{moment:%m%d %H:%M:%S.%f} {record.process or 0:>7} {place}:{record.lineno}]"
        line = f"{header} {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def setup_logging(verbosity: int = 0, stream: TextIO | None = None) -> None:
    """Send every log line of the process to `stream` (standard error).

    `verbosity` is upstream's `-v`: 0 to 3 shows what an operator needs, 4 and above debugging.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(KlogFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbosity >= 4 else logging.INFO)
    for noisy in ("asyncio", "aiohttp.access", "pyroute2", "grpc"):
        logging.getLogger(noisy).setLevel(logging.DEBUG if verbosity >= 8 else logging.WARNING)
