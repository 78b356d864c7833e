"""Field ownership of a write: metadata.managedFields, in the version of the request."""

from __future__ import annotations

from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.registry.strategy import Object, RequestContext


def own_fields(served: ServedResource, ctx: RequestContext, old: Object | None, new: Object) -> None:
    """Note in `new` (storage version) which fields this write changed and who did it; `old` is not changed."""


def apply_fields(
    served: ServedResource, ctx: RequestContext, live: Object | None, applied: Object, *, force: bool, mode: str
) -> Object:
    """Server-side apply: the merged object with its managedFields, in the version of the request."""
    raise NotImplementedError
