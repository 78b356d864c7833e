"""The CRI log format: `<time> <stream> <tags> <content>`, one line a write of the container.

`2016-10-06T00:17:09.669794202Z stdout F The content of the log entry 1`; tag P marks a piece of a
line that goes on in the next entry, F the last (or only) one.
https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogLine:
    """One entry; `content` ends in a newline unless the entry is partial."""

    time: bytes
    stream: bytes
    content: bytes
    partial: bool = False


def parse_line(raw: bytes) -> LogLine | None:
    """The entry in a line of the file (with or without its newline); None when it is none."""
    parts = raw.rstrip(b"\n").split(b" ", 3)
    if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr"):
        return None
    content = parts[3] if len(parts) == 4 else b""
    partial = parts[2].split(b":", 1)[0] == b"P"
    return LogLine(parts[0], parts[1], content if partial else content + b"\n", partial)
