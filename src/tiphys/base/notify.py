"""Telling whoever started this process how far it is: `READY` and facts, a JSON line each.

The supervisor gives its children a pipe by number in TIPHYS_NOTIFY_FD. Under systemd the standard
message goes to NOTIFY_SOCKET as well (sd_notify(3)). Without either, nothing is sent.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Final

NOTIFY_FD: Final = "TIPHYS_NOTIFY_FD"


def notify(event: str, **facts: object) -> None:
    """Send one event with its facts; losing it never hurts the sender."""
    number = os.environ.get(NOTIFY_FD)
    if number is not None:
        try:
            os.write(int(number), json.dumps({"event": event, **facts}).encode() + b"\n")
        except (OSError, ValueError):
            # Whoever started us is gone; a later one does not need to hear this.
            os.environ.pop(NOTIFY_FD, None)


def notify_ready(**facts: object) -> None:
    """This component serves now."""
    notify("ready", **facts)
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        path = "\0" + address[1:] if address.startswith("@") else address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.sendto(b"READY=1", path)
        except OSError:
            return
