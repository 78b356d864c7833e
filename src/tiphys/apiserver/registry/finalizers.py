"""Which finalizers a DELETE adds or takes away for the garbage collector.

propagationPolicy   Foreground: +foregroundDeletion     Orphan: +orphan     Background: neither
none given          what finalizers already say, else the resource's default (see GarbageCollection)
"""

from __future__ import annotations

from collections.abc import Sequence

from tiphys.apiserver.registry.options import (
    FINALIZER_FOREGROUND,
    FINALIZER_ORPHAN,
    FOREGROUND,
    ORPHAN,
    DeleteOptions,
)
from tiphys.apiserver.registry.strategy import GarbageCollection


def orphans(options: DeleteOptions, finalizers: Sequence[str], default: GarbageCollection) -> bool:
    """Whether dependents are to be left alone."""
    if default is GarbageCollection.UNSUPPORTED:
        return False
    if options.orphan_dependents is not None:
        return options.orphan_dependents
    if options.propagation_policy is not None:
        return options.propagation_policy == ORPHAN
    for finalizer in finalizers:
        if finalizer in (FINALIZER_ORPHAN, FINALIZER_FOREGROUND):
            return finalizer == FINALIZER_ORPHAN
    return default is GarbageCollection.ORPHAN


def foreground(options: DeleteOptions, finalizers: Sequence[str], default: GarbageCollection) -> bool:
    """Whether the object waits for its dependents to go."""
    if default is GarbageCollection.UNSUPPORTED or options.orphan_dependents is not None:
        return False
    if options.propagation_policy is not None:
        return options.propagation_policy == FOREGROUND
    for finalizer in finalizers:
        if finalizer in (FINALIZER_ORPHAN, FINALIZER_FOREGROUND):
            return finalizer == FINALIZER_FOREGROUND
    return False


def finalizers_for_deletion(
    options: DeleteOptions, finalizers: Sequence[str], default: GarbageCollection
) -> list[str] | None:
    """The finalizers the object gets when its deletion begins; None when they stay as they are."""
    wanted = [one for one in finalizers if one not in (FINALIZER_ORPHAN, FINALIZER_FOREGROUND)]
    if orphans(options, finalizers, default):
        wanted.append(FINALIZER_ORPHAN)
    if foreground(options, finalizers, default):
        wanted.append(FINALIZER_FOREGROUND)
    return wanted if set(wanted) != set(finalizers) else None
