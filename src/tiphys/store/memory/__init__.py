"""The store in memory: for tests and clusters that may forget. Nothing here touches a disk but `snapshot`."""

from tiphys.store.memory.store import MemoryStore

__all__ = ["MemoryStore"]
