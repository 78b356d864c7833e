"""Bringing raw scores to 0..100, as upstream's DefaultNormalizeScore."""

from __future__ import annotations

import numpy as np

from tiphys.scheduler.framework.interface import MAX_SCORE
from tiphys.scheduler.nodetable import Mask, Numbers


def by_highest(raw: Numbers, feasible: Mask, *, reverse: bool = False) -> Numbers | None:
    """The highest feasible score becomes 100, or with `reverse` 0; None when all are equal at zero."""
    highest = float(np.max(raw, where=feasible, initial=0.0))
    if not highest:
        return None
    scores: Numbers = np.floor(raw * MAX_SCORE / highest)
    return MAX_SCORE - scores if reverse else scores
