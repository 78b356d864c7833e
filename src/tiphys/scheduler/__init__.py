"""kube-scheduler: decides which node each pod runs on. `schedule_one.py` tells the story.

It meets the rest of the cluster only through the API: watches pods and nodes, writes bindings.
"""

from tiphys.scheduler.config import Profile, SchedulerConfig, load
from tiphys.scheduler.scheduler import Scheduler

__all__ = ["Profile", "Scheduler", "SchedulerConfig", "load"]
