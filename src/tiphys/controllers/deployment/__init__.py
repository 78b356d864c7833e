"""Deployments: rolls a template out by scaling ReplicaSets, one a revision.

`controller.py` is the story; `rolling.py`, `recreate.py` and `scaling.py` decide who gets how many
replicas, `revisions.py` which set is whose and what its annotations say, `progress.py` what is reported.
https://kubernetes.io/docs/concepts/workloads/controllers/deployment/
"""

from tiphys.controllers.deployment.controller import DeploymentController

__all__ = ["DeploymentController"]
