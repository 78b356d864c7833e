"""Every object's bytes in memory, per kind, with the recent history watchers resume from."""

from tiphys.apiserver.watchcache.entry import Entry, encode_stored
from tiphys.apiserver.watchcache.event import ADDED, BOOKMARK, DELETED, ERROR, MODIFIED, CacheEvent
from tiphys.apiserver.watchcache.filter import Filter
from tiphys.apiserver.watchcache.hub import ROOT, Kind, WatchCache
from tiphys.apiserver.watchcache.kind import KindCache
from tiphys.apiserver.watchcache.watchers import Watcher

__all__ = [
    "ADDED",
    "BOOKMARK",
    "DELETED",
    "ERROR",
    "MODIFIED",
    "ROOT",
    "CacheEvent",
    "Entry",
    "Filter",
    "Kind",
    "KindCache",
    "WatchCache",
    "Watcher",
    "encode_stored",
]
