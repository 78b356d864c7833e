"""Label selectors of objects, in the form that matches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from tiphys.api.meta.v1 import LabelSelector
from tiphys.machinery import selectors


def selector_of(selector: LabelSelector | None) -> selectors.LabelSelector | None:
    """The matcher of an object's selector; None matches nothing, as an absent selector does.

    An empty selector matches everything. Raises ValueError for one that is not valid.
    """
    if selector is None:
        return None
    return _compiled(msgspec.json.encode(selector, order="deterministic"))


def selector_of_map(labels: Mapping[str, str]) -> selectors.LabelSelector:
    """The matcher of equality with `labels`."""
    return _compiled(msgspec.json.encode({"matchLabels": dict(labels)}, order="deterministic"))


@lru_cache(maxsize=8192)
def _compiled(encoded: bytes) -> selectors.LabelSelector:
    plain: dict[str, Any] = msgspec.json.decode(encoded)
    return selectors.LabelSelector.of_dict(plain)
