"""Conditions of a definition, and how its deletion begins."""

from __future__ import annotations

from typing import Any, Final

Object = dict[str, Any]
FINALIZER: Final = "customresourcecleanup.apiextensions.k8s.io"


def condition(kind: str, status: str, reason: str, message: str, now: str) -> Object:
    """A condition of a definition."""
    return {"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message}


def set_condition(obj: Object, wanted: Object) -> bool:
    """Put a condition in; whether that changed anything. Its time changes with its status only."""
    status = obj.setdefault("status", {})
    conditions = list(status.get("conditions") or ())
    for index, known in enumerate(conditions):
        if known.get("type") == wanted["type"]:
            if known.get("status") == wanted["status"]:
                wanted = {**wanted, "lastTransitionTime": known.get("lastTransitionTime")}
            if known == wanted:
                return False
            conditions[index] = wanted
            break
    else:
        conditions.append(wanted)
    status["conditions"] = conditions
    return True


def mark_terminating(obj: Object, now: str) -> None:
    """What a DELETE of a definition does to it: the finalizer keeps it until its instances are gone."""
    metadata = obj["metadata"]
    finalizers = list(metadata.get("finalizers") or ())
    if FINALIZER not in finalizers:
        metadata["finalizers"] = [*finalizers, FINALIZER]
    message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"
    set_condition(obj, condition("Terminating", "True", "InstanceDeletionPending", message, now))
