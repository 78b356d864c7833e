"""The conditions of an autoscaler. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tiphys.api.autoscaling.v2 import HorizontalPodAutoscalerCondition

ABLE_TO_SCALE: Final = "AbleToScale"
SCALING_ACTIVE: Final = "ScalingActive"
SCALING_LIMITED: Final = "ScalingLimited"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Reason and message."""

    reason: str
    message: str


def with_condition(
    conditions: tuple[HorizontalPodAutoscalerCondition, ...], type_: str, status: bool, outcome: Outcome, now: datetime
) -> tuple[HorizontalPodAutoscalerCondition, ...]:
    """The conditions with one set; its transition time moves only with the status."""
    text = "True" if status else "False"
    made = HorizontalPodAutoscalerCondition(
        type=type_, status=text, reason=outcome.reason, message=outcome.message, last_transition_time=now
    )
    result = []
    for known in conditions:
        if known.type == type_:
            if known.status == text:
                time = known.last_transition_time
                made = HorizontalPodAutoscalerCondition(
                    type=type_, status=text, reason=outcome.reason, message=outcome.message, last_transition_time=time
                )
            result.append(made)
        else:
            result.append(known)
    if made not in result:
        result.append(made)
    return tuple(result)
