"""Deletes what nobody owns any longer, in every kind the server has.

`graph.py` is the picture of who owns whom, kept up to date from watches of all kinds;
`controller.py` acts on it; `monitors.py` finds the kinds to watch.
https://kubernetes.io/docs/concepts/architecture/garbage-collection/
"""

from tiphys.controllers.garbagecollector.controller import GarbageCollector

__all__ = ["GarbageCollector"]
