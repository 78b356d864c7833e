"""Jobs: runs pods until enough of them have succeeded, counting each exactly once.

`controller.py` is the story, `tracking.py` the counting, `indexes.py` sets of completion indexes,
`outcome.py` when a Job has succeeded or failed, `policy.py` pod failure and success policies.
https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

from tiphys.controllers.job.controller import JobController

__all__ = ["JobController"]
