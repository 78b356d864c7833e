"""Keeps as many pods of a template alive as asked for: ReplicaSets, and ReplicationControllers the same way.

`controller.py` is the story, `status.py` what is reported, `kinds.py` where the two kinds differ.
"""

from tiphys.controllers.replicaset.controller import ReplicaSetController
from tiphys.controllers.replicaset.kinds import REPLICA_SETS, REPLICATION_CONTROLLERS

__all__ = ["REPLICATION_CONTROLLERS", "REPLICA_SETS", "ReplicaSetController"]
