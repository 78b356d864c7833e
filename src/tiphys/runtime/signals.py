"""Signal names as images and CRI write them: SIGTERM, TERM, 15, SIGRTMIN+3."""

from __future__ import annotations

import signal
from typing import cast

from tiphys.api.cri import api_pb2


def signal_number(name: str) -> int:
    """The signal's number; ValueError for an unknown name."""
    text = name.strip().upper()
    if text.isdigit():
        return int(text)
    text = text.removeprefix("SIG")
    for base, sign in (("RTMIN+", 1), ("RTMAX-", -1)):
        if text.startswith(base):
            start = signal.SIGRTMIN if sign > 0 else signal.SIGRTMAX
            return int(start) + sign * int(text.removeprefix(base))
    try:
        return int(signal.Signals[f"SIG{text}"])
    except KeyError:
        raise ValueError(f"invalid signal: {name}") from None


def from_cri(value: api_pb2.Signal) -> str:
    """The name of CRI's enumeration value, "" for the runtime's default."""
    name = api_pb2.Signal.Name(value)
    if name == "RUNTIME_DEFAULT":
        return ""
    return name.replace("PLUS", "+").replace("MINUS", "-")


def to_cri(name: str) -> api_pb2.Signal:
    """CRI's enumeration value for a name; the runtime's default where it has none."""
    text = name.strip().upper()
    if text.isdigit():
        try:
            text = signal.Signals(int(text)).name
        except ValueError:
            return api_pb2.RUNTIME_DEFAULT
    if not text.startswith("SIG"):
        text = "SIG" + text
    text = text.replace("+", "PLUS").replace("-", "MINUS")
    try:
        return cast("api_pb2.Signal", api_pb2.Signal.Value(text))
    except ValueError:
        return api_pb2.RUNTIME_DEFAULT
